//! Recovery after an orderly or abrupt stop.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::path::Path;

use backend_json_log::{Durability, JsonLogConfig, JsonLogStorage};
use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::storage::*;
use common::engine::{Engine, Replayed, State, event, subscription, topic};
use common::{block_on, segments, small_segments};

fn subscribe(to: &str, name: &str, since: u64) -> Mutation {
    Mutation::Subscribe { topic: topic(to), subscription: subscription(name), since: Seq(since) }
}

fn settle(of: &str, name: &str, events: &[(i32, u64)]) -> Mutation {
    let key = |(priority, seq): &(i32, u64)| EventKey { priority: Priority(*priority), seq: Seq(*seq) };
    Mutation::Settle { topic: topic(of), subscription: subscription(name), events: events.iter().map(key).collect() }
}

/// Batches with every kind of mutation.
fn everything() -> Vec<Vec<Mutation>> {
    let key = |priority, seq| EventKey { priority: Priority(priority), seq: Seq(seq) };
    vec![
        vec![subscribe("a", "one", 0), subscribe("a", "two", 0), subscribe("b", "one", 0)],
        (1..=9).map(|seq| Mutation::Publish(event("a", (seq % 3) as i32 - 1, seq, 40))).collect(),
        vec![
            Mutation::Publish(event("b", i32::MIN, 1, 10)),
            Mutation::Publish(event("b", i32::MAX, 2, 10)),
            Mutation::Cursor { source: "feed \"x\"".to_owned(), value: "a\\b\n\u{1}ü".to_owned() },
        ],
        vec![settle("a", "one", &[(0, 1), (0, 4), (1, 2)]), settle("a", "two", &[(-1, 3)])],
        vec![Mutation::Redeliver {
            topic: topic("a"),
            subscription: subscription("two"),
            events: vec![
                Redelivery { key: key(0, 1), deliveries: 3, due_at: None, grace_ms: 7 },
                Redelivery { key: key(1, 2), deliveries: 1, due_at: Some(Millis(u64::MAX)), grace_ms: 1 },
            ],
        }],
        vec![Mutation::Forget { topic: topic("a"), events: vec![key(0, 7), key(1, 8)] }],
        vec![Mutation::Unsubscribe { topic: topic("b"), subscription: subscription("one") }],
        vec![],
    ]
}

#[test]
fn everything_comes_back_after_an_orderly_stop() {
    let dir = tempfile::tempdir().unwrap();
    for durability in [Durability::Always, Durability::Interval, Durability::Never] {
        let config = JsonLogConfig { durability, ..JsonLogConfig::new(dir.path().join(format!("{durability:?}"))) };
        let engine = Engine::open(config.clone()).unwrap();
        for batch in everything() {
            engine.commit(batch).unwrap();
        }
        engine.check_payloads();
        let state = engine.state();
        engine.close().unwrap();

        for _ in 0..2 {
            let engine = Engine::open(config.clone()).unwrap();
            assert_eq!(engine.state(), state);
            assert_eq!((engine.report.damaged, engine.report.torn_bytes), (0, 0));
            engine.check_payloads();
            engine.close().unwrap();
        }
        assert_eq!(segments(&config.path).len(), 1, "a restart alone begins no segment");
    }
}

#[test]
fn written_events_are_readable_before_they_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let config = JsonLogConfig { durability: Durability::Never, ..JsonLogConfig::new(dir.path()) };
    let engine = Engine::open(config).unwrap();
    engine.submit(vec![subscribe("a", "one", 0)]).unwrap();
    for seq in 1..=300 {
        engine.submit(vec![Mutation::Publish(event("a", 0, seq, seq as usize * 7))]).unwrap();
    }
    engine.check_payloads();
    assert_eq!(engine.storage.stats().syncs, 0, "nothing was synced");
}

#[test]
fn reading_an_unknown_place_or_a_different_event_returns_none() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    engine.commit(vec![subscribe("a", "one", 0), Mutation::Publish(event("a", 0, 1, 9))]).unwrap();
    let place = engine.place("a", 1);
    let key = |of: &str, seq, place| ReadKey {
        topic: topic(of),
        key: EventKey { priority: Priority(0), seq: Seq(seq) },
        place,
    };
    let keys = vec![
        key("a", 1, place),
        key("a", 2, place),
        key("b", 1, place),
        key("a", 1, Place(0)),
        key("a", 1, Place(u64::MAX)),
        key("a", 1, Place(place.0 + (1 << 8))),
        key("a", 1, Place(place.0 + (1 << 40))),
        key("a", 1, place),
    ];
    let got = block_on(engine.storage.read(keys)).unwrap();
    let found: Vec<_> = got.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, false, false, false, false, false, true]);
}

#[test]
fn payloads_of_any_shape_come_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    let big = format!(r#"{{"topic":"a","priority":0,"msg":"{}","id":"1"}}"#, "y".repeat(3 << 20));
    let payloads = [
        (r#"{"topic":"a","priority":0,"msg":{"crc":"00000000"},"id":"1"}"#, 59),
        (r#"{"topic":"a","priority":0,"msg":1,"id":"1","dead":{"reason":"x"}}"#, 43),
        (r#"{"topic":"other","priority":0,"msg":1}"#, 1),
        (r#"{"topic":"a","priority":7,"msg":1}"#, 2),
        ("{\n  \"topic\": \"a\",\n \"msg\": \"\u{fffd}\" }", 3),
        ("[1]", 2),
        ("x", 0),
        (big.as_str(), 5),
    ];
    let mut batch = vec![subscribe("a", "one", 0)];
    for (n, (payload, insert_at)) in payloads.into_iter().enumerate() {
        let mut event = event("a", 0, n as u64 + 1, 0);
        event.payload = Payload::from_parts(payload.as_bytes(), insert_at).unwrap();
        batch.push(Mutation::Publish(event));
    }
    engine.commit(batch).unwrap();
    engine.check_payloads();
    let state = engine.state();
    engine.close().unwrap();
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    assert_eq!(engine.state(), state);
    engine.check_payloads();
}

#[test]
fn many_segments_are_recovered_and_each_begins_with_a_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let config = small_segments(dir.path());
    let engine = Engine::open(config.clone()).unwrap();
    engine.commit(vec![subscribe("a", "one", 0), Mutation::Cursor { source: "s".into(), value: "v".into() }]).unwrap();
    for seq in 1..=100 {
        engine.commit(vec![Mutation::Publish(event("a", 0, seq, 200))]).unwrap();
    }
    let state = engine.state();
    engine.check_payloads();
    engine.close().unwrap();

    let files = segments(dir.path());
    assert!(files.len() > 5, "{files:?}");
    let last = std::fs::read_to_string(files.last().unwrap()).unwrap();
    for part in [
        r#""topic":{"name":"a","last_seq":"#,
        r#""subscribe":{"topic":"a","subscription":"one","since":0}"#,
        r#""cursor":{"source":"s","value":"v"}"#,
    ] {
        assert!(last.contains(part), "{part} in {last}");
    }
    let engine = Engine::open(config).unwrap();
    assert_eq!(engine.state(), state);
    engine.check_payloads();
}

#[test]
fn a_batch_longer_than_a_segment_is_written_to_one_segment() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    engine.commit(vec![subscribe("a", "one", 0)]).unwrap();
    engine.commit((1..=100).map(|seq| Mutation::Publish(event("a", 0, seq, 1000))).collect()).unwrap();
    engine.commit(vec![Mutation::Publish(event("a", 0, 101, 1000))]).unwrap();
    let state = engine.state();
    engine.check_payloads();
    engine.close().unwrap();
    assert_eq!(segments(dir.path()).len(), 2);
    assert_eq!(Engine::open(small_segments(dir.path())).unwrap().state(), state);
}

#[test]
fn submitting_and_closing_fail_after_close() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    engine.close().unwrap();
    assert_eq!(engine.commit(vec![subscribe("a", "b", 0)]).unwrap_err().kind(), StorageErrorKind::Closed);
    assert_eq!(engine.close().unwrap_err().kind(), StorageErrorKind::Closed);
    assert_eq!(block_on(engine.storage.read(Vec::new())).unwrap_err().kind(), StorageErrorKind::Closed);
}

#[test]
fn dropping_without_closing_writes_all_submitted_batches() {
    let dir = tempfile::tempdir().unwrap();
    let storage = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    storage.recover(&mut Replayed::default()).unwrap();
    let mut commits = Vec::new();
    for seq in 1..=500 {
        commits.push(storage.submit(Batch { mutations: vec![Mutation::Publish(event("a", 0, seq, 10))] }));
    }
    drop(storage);
    for commit in commits {
        assert_eq!(block_on(commit.written).unwrap().len(), 1);
        block_on(commit.durable).unwrap();
    }
    let storage = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    let mut replayed = Replayed::default();
    storage.recover(&mut replayed).unwrap();
    assert_eq!(replayed.mutations.len(), 500);
}

#[test]
fn an_error_of_the_engine_ends_recovery_and_changes_nothing() {
    struct Full;
    impl Recovery for Full {
        fn replay(&mut self, _: Mutation, _: Place) -> Result<(), StorageError> {
            Err(StorageError::new(StorageErrorKind::Failed, "too many topics"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    engine.commit(vec![subscribe("a", "one", 0)]).unwrap();
    engine.close().unwrap();
    let file = segments(dir.path()).remove(0);
    let mut torn = std::fs::read(&file).unwrap();
    torn.extend_from_slice(b"{\"batch\":");
    std::fs::write(&file, &torn).unwrap();

    let storage = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    assert_eq!(storage.recover(&mut Full).unwrap_err().to_string(), "too many topics");
    drop(storage);
    assert_eq!(std::fs::read(&file).unwrap(), torn);
}

#[test]
fn ten_thousand_topics_and_names_at_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    let mut batch = Vec::new();
    for n in 0..10_000 {
        let name = format!("{n:x>255}");
        batch.push(subscribe(&name, &name, 0));
        if n % 100 == 0 {
            batch.push(Mutation::Publish(event(&name, 1, 1, 5)));
        }
    }
    engine.commit(batch).unwrap();
    // The catalogue is now longer than a segment, so this batch begins a new one.
    engine.commit(vec![settle("unknown", "one", &[(0, 1)])]).unwrap();
    engine.commit(vec![subscribe("a", "one", 0)]).unwrap();
    let state = engine.state();
    engine.close().unwrap();
    assert_eq!(segments(dir.path()).len(), 2);
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    let mut got = engine.state();
    // A settlement proves that the sequence was used.
    assert_eq!(got.topics.remove(&topic("unknown")), Some(Seq(1)));
    assert_eq!(got, state);
}

/// Writes the fixture of a new version; the commands are in `tests/fixtures/README.md`.
#[test]
#[ignore = "writes the fixture of a new version"]
fn write_the_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    for batch in everything() {
        engine.commit(batch).unwrap();
    }
    engine.close().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/new-version");
    std::fs::create_dir_all(&fixture).unwrap();
    for file in segments(dir.path()) {
        std::fs::copy(&file, fixture.join(file.file_name().unwrap())).unwrap();
    }
}

/// The fixture was written by the first release with version 1 of the format. Every later release must read it.
#[test]
fn the_fixture_of_version_1_is_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1");
    let dir = tempfile::tempdir().unwrap();
    for file in segments(&fixture) {
        std::fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let mut expected = State::default();
    for mutation in everything().concat() {
        expected.apply(&mutation);
    }
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    assert_eq!((engine.report.damaged, engine.report.torn_bytes), (0, 0));
    assert_eq!(engine.state(), expected);
    engine.check_payloads();
    // What this release writes behind it is read as well.
    let more = Mutation::Publish(event("a", 0, 10, 40));
    engine.commit(vec![more.clone()]).unwrap();
    expected.apply(&more);
    engine.close().unwrap();
    assert_eq!(Engine::open(JsonLogConfig::new(dir.path())).unwrap().state(), expected);
}
