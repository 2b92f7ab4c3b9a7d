//! The broker is killed at random moments under load, again and again on the same data, and every event is held against what
//! its publisher was told and what its consumers did.
//!
//! `KILL_ROUNDS` sets how many rounds there are, `KILL_SEED` repeats a run's choices (not its timing).

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod consumer;
mod history;
mod publisher;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herald_tests::TestBroker;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use consumer::{Behaviour, consume, drain, settle, take_in_order};
use history::History;
use publisher::Publisher;

/// The durable subscriptions: one shared by several connections, one with a single consumer.
const SHARED: &str = "shared";
const SINGLE: &str = "single";

/// An event as it was delivered.
struct Event {
    id: String,
    priority: i32,
    redelivered: u64,
    line: String,
}

fn event(line: &str) -> Option<Event> {
    let json: serde_json::Value = serde_json::from_str(line).ok()?;
    let json = json.as_object()?;
    Some(Event {
        id: json["id"].as_str()?.to_owned(),
        priority: json["priority"].as_i64()?.try_into().ok()?,
        redelivered: json.get("redelivered").and_then(serde_json::Value::as_u64).unwrap_or(0),
        line: line.to_owned(),
    })
}

/// The message of the event with this id, so that whoever reads it can tell whether it is the one that was published. Long enough
/// in all that the storage begins new files.
fn message(id: &str) -> String {
    let number = id.bytes().fold(7_usize, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
    let text = format!("{id} \\u00e9 é ☃ ").repeat(1 + number % 150);
    format!("{{ \"of\" : \"{text}\", \"number\":{number}.0e0}}")
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn nothing_confirmed_is_lost_and_nothing_acknowledged_comes_back() {
    campaign("always", 256, setting("KILL_ROUNDS", 100));
}

#[test]
fn what_is_written_survives_a_kill_although_it_is_not_synced() {
    campaign("interval", 1, setting("KILL_ROUNDS", 100) / 5);
}

/// The campaigns seldom hit the instant between a confirmation and the write that it must not come before. Here a write takes long,
/// and the kill comes at once.
#[test]
fn a_confirmation_is_worth_something_the_instant_it_is_read() {
    let mut rng = StdRng::seed_from_u64(setting("KILL_SEED", rand::random()));
    for trial in 0..12 {
        let durability = ["always", "interval"][trial % 2];
        let mut broker = TestBroker::start(&format!("[storage]\ndurability = \"{durability}\"\n"));
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
        let acknowledges = trial % 3 == 2;
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
            assert_eq!(event(&client.line()).unwrap().id, "first");
        }
        for n in 0..wanted {
            assert_eq!(event(&client.line()).unwrap().id, n.to_string(), "{durability}: {wanted} were confirmed");
        }
    }
}

#[expect(clippy::print_stdout, reason = "a failed run is repeated by its seed")]
fn campaign(durability: &str, memory_budget_mb: u32, rounds: u64) {
    let seed = setting("KILL_SEED", rand::random());
    println!("KILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let config = format!("[storage]\ndurability = \"{durability}\"\nmemory_budget_mb = {memory_budget_mb}\n");
    let mut broker = TestBroker::start(&config);
    let history = Arc::new(History::default());
    for name in [SHARED, SINGLE] {
        let mut client = broker.telnet();
        client.asks(&format!("sub t {name}"), "successfully subscribed to topic t");
        client.asks("detach t", "detached from topic t");
    }
    let mut publishers: Vec<Publisher> = (0..3).map(Publisher::new).collect();
    for round in 0..rounds {
        if round > 0 {
            take_in_order(&broker, [SINGLE, SHARED][round as usize % 2], &history, 20);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let behaviours = [(SHARED, 1), (SHARED, 50), (SHARED, 7), (SINGLE, 20)];
        for (name, prefetch) in behaviours {
            let behaviour = Behaviour { addr: broker.addr(), name, prefetch, seed: rng.random() };
            let (history, stop) = (Arc::clone(&history), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || {
                consume(&behaviour, &history, &stop);
                None
            }));
        }
        for mut publisher in publishers.drain(..) {
            let (history, addr, seed) = (Arc::clone(&history), broker.addr(), rng.random());
            threads.push(std::thread::spawn(move || {
                publisher.run(addr, &history, seed);
                Some(publisher)
            }));
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(20..250)));
        stop.store(true, Ordering::SeqCst);
        let orderly = round % 10 == 9;
        if orderly {
            assert!(broker.terminate().success(), "an orderly stop is a success:\n{}", broker.log());
        } else {
            broker.kill();
        }
        publishers.extend(threads.into_iter().filter_map(|thread| thread.join().unwrap()));
        publishers.sort_by_key(Publisher::number);
        if !orderly {
            history.killed();
        }
        history.check();
        if round % 4 == 3 {
            // Killed again while it starts: in the middle of its recovery, or before, or a little after.
            broker.run_briefly(Duration::from_micros(rng.random_range(0..40_000)));
        }
        broker.run();
    }
    for name in [SINGLE, SHARED] {
        settle(&broker, name);
        take_in_order(&broker, name, &history, 1000);
    }
    let left = [(SHARED, drain(&broker, SHARED, &history)), (SINGLE, drain(&broker, SINGLE, &history))];
    history.check();
    for (name, drained) in left {
        history.check_complete(name, &drained);
    }
    let totals = history.totals();
    println!("{durability}: {rounds} rounds, {totals:?}");
    let least = rounds as usize * 20;
    assert!(totals.confirmed > least && totals.acknowledged > least, "the load was no load: {totals:?}");
    assert!(totals.given_back > rounds && totals.redeliveries > rounds, "nothing came back: {totals:?}");
    assert!(totals.retried > 0 && totals.published >= totals.confirmed, "nothing was published again: {totals:?}");
}
