//! Short crash campaigns; `crash-campaign` runs longer ones. [`herald_tests::campaign`] lists their checks.
//!
//! The seed is fixed, so that every run makes the same choices (the timing still varies).
//! `CRASH_SEED` sets another seed, and `CRASH_ROUNDS` the number of rounds of each campaign.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::Write as _;

use herald_tests::campaign::{self, Backend, Durability, Mode, Report, Settings};
use herald_tests::{TestBroker, id_of};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A fixed seed: a test must not fail because of a choice that the previous run did not make. `crash-campaign` uses new seeds.
const SEED: u64 = 1;

fn settings(backend: Backend, mode: Mode, rounds: u64) -> Settings {
    let (rounds, seed) = (setting("CRASH_ROUNDS", rounds), setting("CRASH_SEED", SEED));
    Settings { longest_load_ms: 150, ..Settings::new(backend, mode, rounds, seed) }
}

#[expect(
    clippy::print_stdout,
    reason = "the test runner shows it if the test fails, with the seed that repeats the run"
)]
fn run(settings: &Settings) -> Report {
    let report = campaign::run(settings, &mut |_| {});
    println!("{report}");
    report
}

fn finds_no_violation(settings: &Settings) {
    let report = run(settings);
    assert!(report.is_good(), "{report}");
}

#[test]
fn json_log_loses_nothing_and_repeats_no_acknowledged_event_when_killed() {
    finds_no_violation(&settings(Backend::JsonLog, Mode::Kill, 30));
}

#[test]
fn sled_loses_nothing_and_repeats_no_acknowledged_event_when_killed() {
    finds_no_violation(&settings(Backend::Sled, Mode::Kill, 30));
}

#[test]
fn sqlite_loses_nothing_and_repeats_no_acknowledged_event_when_killed() {
    finds_no_violation(&settings(Backend::Sqlite, Mode::Kill, 30));
}

#[test]
fn unsynced_events_survive_a_kill() {
    for backend in Backend::ALL {
        finds_no_violation(&Settings { durability: Durability::Interval, ..settings(backend, Mode::Kill, 8) });
    }
}

#[test]
fn json_log_keeps_confirmed_events_in_a_power_cut() {
    finds_no_violation(&settings(Backend::JsonLog, Mode::PowerCut, 10));
}

#[test]
fn sled_keeps_confirmed_events_in_a_power_cut() {
    finds_no_violation(&settings(Backend::Sled, Mode::PowerCut, 10));
}

#[test]
fn sqlite_keeps_confirmed_events_in_a_power_cut() {
    finds_no_violation(&settings(Backend::Sqlite, Mode::PowerCut, 10));
}

/// Checks that the campaign detects a certain loss. Any finding counts: the tests above verify that the same campaign finds nothing on
/// a storage that syncs, and such a loss shows in many ways (sled may even fail to start).
fn detects_a_loss(settings: &Settings) {
    let evidence = tempfile::tempdir().unwrap();
    let report = run(&Settings { evidence: Some(evidence.path().to_owned()), ..settings.clone() });
    assert!(!report.findings.is_empty(), "a certain loss is detected: {report}");
    assert!(report.evidence.is_some_and(|dir| dir.join("crashed").is_dir()), "the evidence is kept");
}

#[test]
fn a_power_cut_loses_unsynced_events() {
    for backend in Backend::ALL {
        detects_a_loss(&Settings { durability: Durability::Interval, ..settings(backend, Mode::PowerCut, 10) });
    }
}

#[test]
fn a_storage_that_does_not_sync_is_detected() {
    for backend in Backend::ALL {
        detects_a_loss(&Settings { syncs_do_nothing: true, ..settings(backend, Mode::PowerCut, 10) });
    }
}

/// A confirmation must not precede the write. The campaigns rarely hit the moment in between, so here a write takes long and the kill
/// comes at once.
#[test]
fn an_event_survives_a_kill_the_moment_its_confirmation_is_read() {
    let mut rng = StdRng::seed_from_u64(setting("CRASH_SEED", SEED));
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
