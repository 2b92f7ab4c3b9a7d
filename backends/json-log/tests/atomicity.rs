//! Power fails, or an operation fails, at every single operation of a run. The recovered state is always one that existed during
//! the run, and never older than the last confirmation.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backend_json_log::{Durability, JsonLogConfig, JsonLogStorage};
use broker_core::event::{EventKey, Millis, Priority, Seq};
use broker_core::storage::*;
use common::engine::{Engine, State, event, subscription, topic};
use common::sim::{Plan, SimDisk, Survives};
use common::{block_on, small_segments};

fn key(priority: i32, seq: u64) -> EventKey {
    EventKey { priority: Priority(priority), seq: Seq(seq) }
}

fn settle(name: &str, events: Vec<EventKey>) -> Mutation {
    Mutation::Settle { topic: topic("a"), subscription: subscription(name), events }
}

fn open(config: &JsonLogConfig, disk: &SimDisk) -> Result<Engine, StorageError> {
    Engine::over(JsonLogStorage::open_with(config.clone(), Arc::new(disk.clone()))?)
}

/// The observations of a run.
struct Seen {
    history: Vec<State>,
    /// The last batch whose `durable` completed.
    durable: usize,
}

/// Publishes to several subscriptions and settles most events, but leaves some in every segment that have to be moved.
fn run(engine: &Engine, cleans: bool) -> Seen {
    let mut durable = 0;
    let mut waiting = Vec::new();
    let mut submitted = 0;
    let mut batches = vec![vec![
        Mutation::Subscribe { topic: topic("a"), subscription: subscription("one"), since: Seq(0) },
        Mutation::Subscribe { topic: topic("a"), subscription: subscription("two"), since: Seq(0) },
    ]];
    for n in 0..12_u64 {
        let seq = n * 4;
        batches.push(vec![
            Mutation::Publish(event("a", 0, seq + 1, 150)),
            Mutation::Publish(event("a", 1, seq + 2, 300)),
            Mutation::Publish(event("a", 0, seq + 3, 10)),
            Mutation::Cursor { source: "feed".to_owned(), value: format!("at-{seq}") },
        ]);
        batches.push(vec![
            settle("one", vec![key(0, seq + 1), key(1, seq + 2), key(0, seq + 3)]),
            settle("two", vec![key(0, seq + 1), key(1, seq + 2)]),
            Mutation::Redeliver {
                topic: topic("a"),
                subscription: subscription("two"),
                events: vec![Redelivery {
                    key: key(0, seq + 3),
                    deliveries: 2,
                    due_at: Some(Millis(seq)),
                    grace_ms: 0,
                }],
            },
        ]);
        if n % 4 != 0 {
            batches.push(vec![settle("two", vec![key(0, seq + 3)])]);
        }
    }
    batches.push(vec![Mutation::Unsubscribe { topic: topic("a"), subscription: subscription("one") }]);
    for batch in batches {
        let Ok(stage) = engine.submit(batch) else { break };
        submitted += 1;
        waiting.push((submitted, stage));
        if submitted % 3 == 0 {
            for (n, stage) in waiting.drain(..) {
                if block_on(stage).is_ok() {
                    durable = n;
                }
            }
        }
    }
    if cleans {
        let full = engine.storage.stats().bytes;
        for _ in 0..100 {
            if engine.storage.stats().bytes < full / 2 || engine.submit(Vec::new()).is_err() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    for (n, stage) in waiting {
        if block_on(stage).is_ok() {
            durable = n;
        }
    }
    Seen { history: engine.history(), durable }
}

/// Opens the surviving directory, compares its state, continues to use it, and compares again.
fn check(config: &JsonLogConfig, disk: &SimDisk, seen: &Seen, what: &str) {
    let engine = open(config, disk).unwrap();
    let state = engine.state();
    let found = seen.history[seen.durable..].contains(&state);
    assert!(found, "{what}: no state since batch {} is {state:#?}", seen.durable);
    assert_eq!(engine.report.damaged, 0, "{what}");
    engine.check_payloads();
    engine.commit(vec![Mutation::Publish(event("a", 3, 1000, 40))]).unwrap();
    let state = engine.state();
    engine.close().unwrap();
    let engine = open(config, &disk.reboot(Survives::Nothing, Plan::Nothing)).unwrap();
    assert_eq!(engine.state(), state, "{what}");
    assert_eq!((engine.report.damaged, engine.report.torn_bytes), (0, 0), "{what}");
    engine.check_payloads();
}

/// Runs `case` with 0, 1, 2, … on several threads, until it returns false: the run has no such operation.
fn at_every_operation(case: impl Fn(u64) -> bool + Sync) -> u64 {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    if !case(n) {
                        end.fetch_min(n, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    end.into_inner()
}

fn cut_at_every_operation(cleans: bool) {
    let config = small_segments("data");
    let operations = at_every_operation(|n| {
        let disk = SimDisk::new(Plan::CutAt(n));
        let seen = match open(&config, &disk) {
            Ok(engine) => run(&engine, cleans),
            Err(_) => Seen { history: vec![State::default()], durable: 0 },
        };
        if !disk.happened() {
            return false;
        }
        for survives in [Survives::Nothing, Survives::Everything, Survives::Some(n), Survives::Some(n + 7919)] {
            check(&config, &disk.reboot(survives, Plan::Nothing), &seen, &format!("cut at {n}, {survives:?}"));
            // Cut the power again at each operation of the recovery.
            for m in 0.. {
                let second = disk.reboot(survives, Plan::CutAt(m));
                let opened = open(&config, &second).is_ok();
                if !second.happened() || opened {
                    break;
                }
                let third = second.reboot(Survives::Some(n + m), Plan::Nothing);
                check(&config, &third, &seen, &format!("cut at {n}, {survives:?}, then at {m}"));
            }
        }
        true
    });
    assert!(operations > 60, "only {operations} operations: too few for a meaningful test");
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_that_was_durable() {
    cut_at_every_operation(false);
}

#[test]
fn a_power_cut_at_any_operation_of_cleaning_loses_nothing_that_was_durable() {
    cut_at_every_operation(true);
}

#[test]
fn a_failing_operation_ends_confirmations_and_loses_nothing_that_was_durable() {
    let config = small_segments("data");
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        at_every_operation(|n| {
            let disk = SimDisk::new(Plan::FailAt(n, kind));
            let seen = match open(&config, &disk) {
                Ok(engine) => {
                    let seen = run(&engine, false);
                    if disk.happened() {
                        // Only an unlink may be retried, and this run has none.
                        let error = engine.commit(vec![Mutation::Publish(event("a", 0, 2000, 1))]).unwrap_err();
                        let expected = match kind {
                            io::ErrorKind::StorageFull => StorageErrorKind::Full,
                            _ => StorageErrorKind::Failed,
                        };
                        assert_eq!(error.kind(), expected, "{error}");
                        let later = engine.commit(vec![]).unwrap_err();
                        assert_eq!(later.to_string(), error.to_string(), "the first failure is kept");
                    }
                    seen
                }
                Err(_) => Seen { history: vec![State::default()], durable: 0 },
            };
            if !disk.happened() {
                return false;
            }
            for survives in [Survives::Nothing, Survives::Everything, Survives::Some(n)] {
                check(&config, &disk.reboot(survives, Plan::Nothing), &seen, &format!("{kind} at {n}, {survives:?}"));
            }
            true
        });
    }
}

#[test]
fn what_is_written_survives_the_process_at_every_durability() {
    for durability in [Durability::Always, Durability::Interval, Durability::Never] {
        let config = JsonLogConfig { durability, ..small_segments("data") };
        let disk = SimDisk::new(Plan::Nothing);
        let engine = open(&config, &disk).unwrap();
        let seen = run(&engine, false);
        let killed = disk.reboot(Survives::Everything, Plan::Nothing);
        let last = seen.history.last().unwrap();
        assert_eq!(open(&config, &killed).unwrap().state(), *last, "{durability:?}");
    }
}

#[test]
fn weaker_durability_still_recovers_a_prefix() {
    for durability in [Durability::Interval, Durability::Never] {
        let config = JsonLogConfig { durability, sync_interval_ms: 5, ..small_segments("data") };
        at_every_operation(|n| {
            let disk = SimDisk::new(Plan::CutAt(n));
            let mut seen = match open(&config, &disk) {
                Ok(engine) => run(&engine, false),
                Err(_) => Seen { history: vec![State::default()], durable: 0 },
            };
            // Confirmed batches may be lost, but only from the end.
            seen.durable = 0;
            for survives in [Survives::Nothing, Survives::Everything, Survives::Some(n)] {
                check(
                    &config,
                    &disk.reboot(survives, Plan::Nothing),
                    &seen,
                    &format!("{durability:?} at {n}, {survives:?}"),
                );
            }
            disk.happened()
        });
    }
}
