//! The broker is killed at random moments under load, again and again on the same data, and every event is held against what
//! its publisher was told and what its consumers did.
//!
//! `KILL_ROUNDS` sets how many rounds there are, `KILL_SEED` repeats a run's choices (not its timing).

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod consumer;
mod history;
mod publisher;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herald_tests::TestBroker;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use consumer::{Behaviour, consume, drain, take_in_order};
use history::History;
use publisher::Publisher;

/// The durable subscriptions: one shared by several connections, one with a single consumer.
const SHARED: &str = "shared";
const SINGLE: &str = "single";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn nothing_confirmed_is_lost_and_nothing_acknowledged_comes_back() {
    campaign("always", setting("KILL_ROUNDS", 100));
}

#[test]
fn what_is_written_survives_a_kill_although_it_is_not_synced() {
    campaign("interval", setting("KILL_ROUNDS", 100) / 5);
}

#[expect(clippy::print_stdout, reason = "a failed run is repeated by its seed")]
fn campaign(durability: &str, rounds: u64) {
    let seed = setting("KILL_SEED", rand::random());
    println!("KILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut broker = TestBroker::start(&format!("[storage]\ndurability = \"{durability}\"\n"));
    let history = Arc::new(History::default());
    for name in [SHARED, SINGLE] {
        let mut client = broker.telnet();
        client.asks(&format!("sub t {name}"), "successfully subscribed to topic t");
        client.asks("detach t", "detached from topic t");
    }
    let mut publishers: Vec<Publisher> = (0..3).map(Publisher::new).collect();
    for round in 0..rounds {
        if round > 0 {
            take_in_order(&broker, SINGLE, &history, 20);
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
        if round % 10 == 9 {
            assert!(broker.terminate().success(), "an orderly stop is a success:\n{}", broker.log());
        } else {
            broker.kill();
        }
        publishers.extend(threads.into_iter().filter_map(|thread| thread.join().unwrap()));
        publishers.sort_by_key(Publisher::number);
        history.check();
        broker.run();
    }
    // Whatever was delayed is due.
    std::thread::sleep(Duration::from_millis(200));
    take_in_order(&broker, SINGLE, &history, 2000);
    let left = [(SHARED, drain(&broker, SHARED, &history)), (SINGLE, drain(&broker, SINGLE, &history))];
    history.check();
    for (name, drained) in left {
        history.check_complete(name, &drained);
    }
    let (published, confirmed, acknowledged) = history.totals();
    println!(
        "{durability}: {rounds} rounds, {published} published, {confirmed} confirmed, {acknowledged} acknowledgements answered"
    );
    assert!(confirmed > rounds * 20, "the load was no load: {confirmed} confirmed");
}
