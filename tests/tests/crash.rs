//! Crash campaigns of a size for every check; `crash-campaign` runs larger ones. See [`herald_tests::campaign`] for what they check.
//!
//! `CRASH_ROUNDS` sets how many rounds each has, `CRASH_SEED` repeats a run's choices (not its timing).

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use std::io::Write as _;

use herald_tests::campaign::{self, Backend, Durability, Mode, Report, Settings};
use herald_tests::{TestBroker, id_of};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn settings(backend: Backend, mode: Mode, rounds: u64) -> Settings {
    let (rounds, seed) = (setting("CRASH_ROUNDS", rounds), setting("CRASH_SEED", rand::random::<u32>().into()));
    Settings { longest_load_ms: 150, ..Settings::new(backend, mode, rounds, seed) }
}

#[expect(
    clippy::print_stdout,
    reason = "the test runner shows it where a test fails, and a run is repeated by its seed"
)]
fn run(settings: &Settings) -> Report {
    let report = campaign::run(settings, &mut |_| {});
    println!("{report}");
    report
}

fn keeps_its_promises(settings: &Settings) {
    let report = run(settings);
    assert!(report.is_good(), "{report}");
}

#[test]
fn json_log_loses_nothing_and_brings_nothing_back_when_killed() {
    keeps_its_promises(&settings(Backend::JsonLog, Mode::Kill, 30));
}

#[test]
fn sled_loses_nothing_and_brings_nothing_back_when_killed() {
    keeps_its_promises(&settings(Backend::Sled, Mode::Kill, 30));
}

#[test]
fn sqlite_loses_nothing_and_brings_nothing_back_when_killed() {
    keeps_its_promises(&settings(Backend::Sqlite, Mode::Kill, 30));
}

#[test]
fn what_is_written_survives_a_kill_although_it_is_not_synced() {
    for backend in Backend::ALL {
        keeps_its_promises(&Settings { durability: Durability::Interval, ..settings(backend, Mode::Kill, 8) });
    }
}

#[test]
fn json_log_keeps_what_it_confirmed_when_the_power_fails() {
    keeps_its_promises(&settings(Backend::JsonLog, Mode::PowerCut, 10));
}

#[test]
fn sled_keeps_what_it_confirmed_when_the_power_fails() {
    keeps_its_promises(&settings(Backend::Sled, Mode::PowerCut, 10));
}

#[test]
fn sqlite_keeps_what_it_confirmed_when_the_power_fails() {
    keeps_its_promises(&settings(Backend::Sqlite, Mode::PowerCut, 10));
}

/// What the two tests below would not find, the others would not find either.
fn is_found_out(settings: &Settings) {
    let evidence = tempfile::tempdir().unwrap();
    let report = run(&Settings { evidence: Some(evidence.path().to_owned()), ..settings.clone() });
    // sled may not even start on what such a cut leaves, which is hard to overlook.
    let loss = ["are lost", "after the start; it must be", "no such topic", "is gone", "the process has ended"];
    let is_found = |finding: &String| loss.iter().any(|words| finding.contains(words));
    assert!(report.findings.iter().any(is_found), "a loss that is certain is found: {report}");
    assert!(report.evidence.is_some_and(|dir| dir.join("crashed").is_dir()), "the evidence is kept");
}

#[test]
fn a_power_cut_takes_what_was_only_written() {
    for backend in Backend::ALL {
        is_found_out(&Settings { durability: Durability::Interval, ..settings(backend, Mode::PowerCut, 10) });
    }
}

#[test]
fn a_storage_that_does_not_sync_is_found_out() {
    for backend in Backend::ALL {
        is_found_out(&Settings { syncs_do_nothing: true, ..settings(backend, Mode::PowerCut, 10) });
    }
}

/// The campaigns seldom hit the instant between a confirmation and the write that it must not come before. Here a write takes long,
/// and the kill comes at once.
#[test]
fn a_confirmation_is_worth_something_the_instant_it_is_read() {
    let mut rng = StdRng::seed_from_u64(setting("CRASH_SEED", rand::random()));
    for trial in 0..12 {
        let (kind, durability) = (Backend::ALL[trial % 3].kind(), ["always", "interval"][trial % 2]);
        let config = format!("[storage]\nkind = \"{kind}\"\ndurability = \"{durability}\"\n");
        let mut broker = TestBroker::start(&config);
        let mut client = broker.telnet();
        client.asks("sub t s", "successfully subscribed to topic t");
        client.send(r#"pub t {"id":"first"}"#);
        client.expect(r#"{"topic":"t","priority":0,"msg":null,"id":"first"}"#);
        let mut publisher = broker.telnet();
        assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello"));
        let text = "x".repeat(700_000);
        let mut writer = publisher.stream().try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            for n in 0..40 {
                if writer.write_all(format!("pub t {{\"id\":\"{n}\",\"msg\":\"{text}\"}}\n").as_bytes()).is_err() {
                    return;
                }
            }
        });
        let wanted = rng.random_range(1..40);
        for n in 0..wanted {
            assert!(publisher.line().starts_with(&format!("published t {n} ")));
        }
        let acknowledges = trial % 4 > 1;
        if acknowledges {
            client.asks("ack t first", "acknowledged from logs ev_id=first");
        }
        broker.kill();
        writing.join().unwrap();
        broker.run();
        let mut client = broker.telnet();
        assert!(client.ask("hello {\"prefetch\":50}").starts_with("hello"));
        client.asks("sub t s", "successfully subscribed to topic t");
        if !acknowledges {
            assert_eq!(id_of(&client.line()), "first");
        }
        for n in 0..wanted {
            assert_eq!(id_of(&client.line()), n.to_string(), "{kind}, {durability}: {wanted} were confirmed");
        }
    }
}
