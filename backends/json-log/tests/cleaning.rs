//! Space that is no longer needed is freed, and nothing that is still needed is lost.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::fs;
use std::time::Duration;

use backend_json_log::JsonLogConfig;
use broker_core::event::{EventKey, Millis, Priority, Seq};
use broker_core::storage::*;
use common::engine::{Engine, event, subscription, topic};
use common::{block_on, eventually, segments, small_segments};

fn subscribe(name: &str) -> Mutation {
    Mutation::Subscribe { topic: topic("a"), subscription: subscription(name), since: Seq(0) }
}

fn settle(name: &str, seqs: impl IntoIterator<Item = u64>) -> Mutation {
    let key = |seq| EventKey { priority: Priority(0), seq: Seq(seq) };
    Mutation::Settle {
        topic: topic("a"),
        subscription: subscription(name),
        events: seqs.into_iter().map(key).collect(),
    }
}

fn publish(seqs: impl IntoIterator<Item = u64>, size: usize) -> Vec<Mutation> {
    seqs.into_iter().map(|seq| Mutation::Publish(event("a", 0, seq, size))).collect()
}

#[test]
fn a_drained_queue_leaves_a_small_directory() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    engine.commit(vec![subscribe("one")]).unwrap();
    for seq in 1..=200 {
        engine.commit(publish([seq], 300)).unwrap();
    }
    engine.check_payloads();
    assert!(segments(dir.path()).len() > 15);
    engine.commit(vec![settle("one", 1..=200)]).unwrap();
    // The releases of these events are in the batch; late ones may need another batch.
    engine.commit(vec![]).unwrap();
    eventually("freeing", || segments(dir.path()).len() == 1);
    assert!(engine.storage.stats().bytes < 8192);
    let state = engine.state();
    engine.close().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    assert_eq!(engine.report.damaged, 0, "freed segments do not count as missing");
    assert_eq!(engine.state(), state);
}

#[test]
fn old_events_that_still_wait_are_moved_with_exactly_their_holders() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    engine.commit(vec![subscribe("one"), subscribe("two"), subscribe("three")]).unwrap();
    for seq in 1..=120 {
        engine.commit(publish([seq], 300)).unwrap();
    }
    // Looked up before the settlements, because the cleaner may move the event as soon as they are written.
    let old = engine.place("a", 3);
    let redelivery = Redelivery {
        key: EventKey { priority: Priority(0), seq: Seq(3) },
        deliveries: 7,
        due_at: Some(Millis(1_900_000_000_000)),
        grace_ms: 12,
    };
    engine
        .commit(vec![
            Mutation::Redeliver { topic: topic("a"), subscription: subscription("two"), events: vec![redelivery] },
            settle("one", 1..=120),
            settle("two", (1..=120).filter(|seq| *seq != 3 && *seq != 50)),
            settle("three", (1..=120).filter(|seq| *seq != 50)),
        ])
        .unwrap();
    eventually("moving", || !segments(dir.path())[0].ends_with("0000000000000001.jsonl"));
    assert_ne!(engine.place("a", 3), old);
    engine.check_payloads();
    let state = engine.state();
    assert_eq!(state.events.len(), 2);
    engine.close().unwrap();

    let engine = Engine::open(small_segments(dir.path())).unwrap();
    assert_eq!((engine.report.damaged, engine.report.torn_bytes), (0, 0));
    assert_eq!(engine.state(), state);
    engine.check_payloads();
}

#[test]
fn a_place_that_was_looked_up_before_a_move_can_be_read_shortly_after() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    engine.commit(vec![subscribe("one")]).unwrap();
    for seq in 1..=60 {
        engine.commit(publish([seq], 300)).unwrap();
    }
    let key = EventKey { priority: Priority(0), seq: Seq(1) };
    let old = ReadKey { topic: topic("a"), key, place: engine.place("a", 1) };
    engine.commit(vec![settle("one", 2..=60)]).unwrap();
    eventually("moving", || engine.place("a", 1) != old.place);
    let read = block_on(engine.storage.read(vec![old])).unwrap();
    assert!(read[0].is_some());
}

#[test]
fn publishing_goes_on_while_space_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(JsonLogConfig { segment_bytes: 64 << 10, ..JsonLogConfig::new(dir.path()) }).unwrap();
    engine.commit(vec![subscribe("one")]).unwrap();
    let mut seq = 0;
    // Every tenth event is never settled, so nearly every segment has events to move.
    for _ in 0..150 {
        engine.commit(publish(seq + 1..=seq + 20, 400)).unwrap();
        engine.commit(vec![settle("one", (seq + 1..=seq + 20).filter(|seq| seq % 10 != 0))]).unwrap();
        seq += 20;
    }
    let written = 3000 * 500;
    eventually("freeing", || engine.storage.stats().bytes < written / 2);
    engine.check_payloads();
    let state = engine.state();
    assert_eq!(state.events.len(), 300);
    engine.close().unwrap();
    let config = JsonLogConfig { segment_bytes: 64 << 10, ..JsonLogConfig::new(dir.path()) };
    let engine = Engine::open(config).unwrap();
    assert_eq!(engine.report.damaged, 0);
    assert_eq!(engine.state(), state);
    engine.check_payloads();
}

#[test]
fn an_idle_log_that_holds_nothing_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let config = JsonLogConfig { segment_bytes: 1 << 20, ..JsonLogConfig::new(dir.path()) };
    let engine = Engine::open(config).unwrap();
    engine.commit(vec![subscribe("one")]).unwrap();
    engine.commit(publish(1..=1000, 500)).unwrap();
    engine.commit(vec![settle("one", 1..=1000)]).unwrap();
    eventually("replacing", || {
        let files = segments(dir.path());
        files.len() == 1 && files[0].ends_with("0000000000000002.jsonl")
    });
    assert!(engine.storage.stats().bytes < 1000);
    // The new segment is not replaced in turn.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(segments(dir.path())[0].ends_with("0000000000000002.jsonl"));
}

#[test]
fn a_freed_segment_that_reappears_changes_nothing_and_is_removed_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    engine.commit(vec![subscribe("one")]).unwrap();
    for seq in 1..=100 {
        engine.commit(publish([seq], 300)).unwrap();
    }
    let before: Vec<_> = segments(dir.path()).iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    engine.commit(vec![settle("one", (1..=100).filter(|seq| *seq != 1 && *seq != 80))]).unwrap();
    eventually("freeing", || segments(dir.path())[0] > before[3].0);
    std::thread::sleep(Duration::from_millis(500));
    let state = engine.state();
    engine.close().unwrap();

    // The `freed` record is durable before the file is removed, so power can fail in between.
    let oldest = &segments(dir.path())[0];
    let (path, bytes) = before.iter().rev().find(|(path, _)| path < oldest).unwrap();
    fs::write(path, bytes).unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    assert_eq!(engine.report.damaged, 0);
    assert_eq!(engine.state(), state);
    engine.check_payloads();
    engine.commit(vec![]).unwrap();
    eventually("freeing it again", || !path.exists());
    engine.check_payloads();
}

#[test]
fn closing_while_events_are_moved_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    engine.commit(vec![subscribe("one")]).unwrap();
    for seq in 1..=100 {
        engine.commit(publish([seq], 300)).unwrap();
    }
    engine.commit(vec![settle("one", (1..=100).filter(|seq| seq % 7 != 0))]).unwrap();
    let state = engine.state();
    engine.close().unwrap();
    assert_eq!(Engine::open(small_segments(dir.path())).unwrap().state(), state);
}
