//! Damaged files: torn tails, flipped bits, truncated and missing files, and foreign content.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::fs;
use std::path::Path;

use backend_json_log::{JsonLogConfig, JsonLogStorage, OnDamage};
use broker_core::event::{EventKey, Priority, Seq};
use broker_core::storage::*;
use common::engine::{Engine, Replayed, event, subscription, topic};
use common::{block_on, segments, small_segments};

/// Writes a log of one segment, with a subscription and some batches of events and settlements, and returns its bytes.
fn small_log(dir: &Path) -> Vec<u8> {
    let engine = Engine::open(JsonLogConfig::new(dir)).unwrap();
    engine
        .commit(vec![Mutation::Subscribe { topic: topic("a"), subscription: subscription("one"), since: Seq(0) }])
        .unwrap();
    engine.commit(vec![Mutation::Publish(event("a", 0, 1, 3))]).unwrap();
    engine.commit((2..=4).map(|seq| Mutation::Publish(event("a", 1, seq, 3))).collect()).unwrap();
    engine
        .commit(vec![Mutation::Settle {
            topic: topic("a"),
            subscription: subscription("one"),
            events: vec![EventKey { priority: Priority(0), seq: Seq(1) }],
        }])
        .unwrap();
    engine.commit((5..=7).map(|seq| Mutation::Publish(event("a", 1, seq, 3))).collect()).unwrap();
    engine.close().unwrap();
    fs::read(&segments(dir)[0]).unwrap()
}

/// Recovers a log of one segment with these bytes, publishes to it, and recovers it again.
fn recover(bytes: &[u8]) -> (RecoveryReport, Replayed) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0000000000000001.jsonl"), bytes).unwrap();
    let storage = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    let mut replayed = Replayed::default();
    let report = storage.recover(&mut replayed).unwrap();
    // The log can still be written to, and the new event is recovered.
    let publish = Mutation::Publish(event("a", 0, 900, 3));
    let commit = storage.submit(Batch { mutations: vec![publish.clone()] });
    block_on(commit.durable).unwrap();
    block_on(storage.close()).unwrap();
    let storage = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    let mut again = Replayed::default();
    let second = storage.recover(&mut again).unwrap();
    assert_eq!(second.torn_bytes, 0, "the tail was cut the first time");
    assert_eq!(again.mutations.pop(), Some(publish));
    assert_eq!(again.mutations, replayed.mutations);
    (report, replayed)
}

/// The lines of a log, each with its ending.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

#[test]
fn a_log_cut_anywhere_keeps_its_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(dir.path());
    // The offset and the number of mutations after each line that ends a batch.
    let mut whole = vec![(0, 0)];
    let (mut at, mut mutations) = (0, 0);
    for line in lines(&log) {
        at += line.len();
        // A subscription is written twice.
        mutations += u64::from(line.starts_with(br#"{"batch""#) && !line.starts_with(br#"{"batch":1,"left":1,"#));
        if memchr::memmem::find(line, br#""left":0,"#).is_some() {
            whole.push((at, mutations));
        }
    }
    for end in 0..log.len() {
        let (report, replayed) = recover(&log[..end]);
        let (kept, mutations) = whole.iter().rev().find(|(at, _)| *at <= end).unwrap();
        assert_eq!(replayed.mutations.len() as u64, *mutations, "cut at {end}");
        assert_eq!(report.torn_bytes, (end - kept) as u64, "cut at {end}");
        assert_eq!(report.damaged, 0, "cut at {end}");
    }
}

#[test]
fn a_flipped_bit_costs_at_most_its_own_line() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(dir.path());
    let (_, intact) = recover(&log);
    let mut at = 0;
    for line in lines(&log) {
        let is_record = line.starts_with(br#"{"batch""#);
        for n in 0..line.len() {
            for bit in [0, 3, 5, 7] {
                let mut flipped = log.clone();
                flipped[at + n] ^= 1 << bit;
                let (report, replayed) = recover(&flipped);
                let lost: Vec<_> = intact.mutations.iter().filter(|m| !replayed.mutations.contains(m)).collect();
                assert!(lost.len() <= usize::from(is_record), "bit {bit} of byte {}: lost {lost:?}", at + n);
                assert!(report.damaged + report.torn_bytes > 0, "bit {bit} of byte {}: not noticed", at + n);
            }
        }
        at += line.len();
    }
}

/// Flips every bit of every subscription's line in the file, and changes every byte to another character and to zero. Each time, all
/// `expected` events must survive with all their holders.
fn flip_subscriptions(dir: &Path, file: &Path, expected: &common::engine::State) {
    let whole = fs::read(file).unwrap();
    let mut at = 0;
    let mut flipped = 0;
    for line in lines(&whole) {
        if memchr::memmem::find(line, br#""subscribe":"#).is_some() {
            for n in at..at + line.len() {
                let byte = whole[n];
                let others = (0..8).map(|bit| byte ^ 1 << bit).chain([b'#', 0]).filter(|other| *other != byte);
                for other in others {
                    let mut bytes = whole.clone();
                    bytes[n] = other;
                    fs::write(file, &bytes).unwrap();
                    let storage = JsonLogStorage::open(small_segments(dir)).unwrap();
                    let mut replayed = Replayed::default();
                    let report = storage.recover(&mut replayed).unwrap();
                    assert_eq!(replayed.state.events, expected.events, "byte {n} is {other}");
                    assert_eq!(replayed.state.subscriptions, expected.subscriptions, "byte {n} is {other}");
                    assert!(report.damaged > 0, "byte {n} is {other}: not noticed");
                    flipped += 1;
                    drop(storage);
                    // After a damaged header or catalogue, recovery begins another segment.
                    for later in segments(dir).into_iter().filter(|later| later.as_path() > file) {
                        if fs::read(&later).is_ok_and(|bytes| memchr::memmem::find(&bytes, br#""batch""#).is_none()) {
                            fs::remove_file(later).unwrap();
                        }
                    }
                }
            }
        }
        at += line.len();
    }
    fs::write(file, &whole).unwrap();
    assert!(flipped > 1_000, "{flipped}");
}

#[test]
fn a_flipped_bit_in_the_record_of_a_subscription_loses_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    for name in ["one", "two"] {
        let subscribe = Mutation::Subscribe { topic: topic("a"), subscription: subscription(name), since: Seq(0) };
        engine.commit(vec![subscribe]).unwrap();
    }
    engine.commit((1..=7).map(|seq| Mutation::Publish(event("a", 0, seq, 3))).collect()).unwrap();
    let expected = engine.state();
    engine.close().unwrap();
    drop(engine);
    flip_subscriptions(dir.path(), &segments(dir.path())[0], &expected);
}

#[test]
fn a_flipped_bit_in_the_catalogue_of_the_only_segment_left_loses_no_event() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path());
    // Without the segments before it, as if they were freed, only its catalogue knows the subscription.
    let mut files = segments(dir.path());
    let last = files.pop().unwrap();
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    let storage = JsonLogStorage::open(small_segments(dir.path())).unwrap();
    let mut replayed = Replayed::default();
    storage.recover(&mut replayed).unwrap();
    drop(storage);
    assert!(!replayed.state.events.is_empty() && replayed.state.subscriptions.len() == 1);
    flip_subscriptions(dir.path(), &last, &replayed.state);
}

#[test]
fn a_tail_of_zeros_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = small_log(dir.path());
    let len = log.len();
    for zeros in [1, 4096, 1 << 20] {
        log.resize(len + zeros, 0);
        let (report, replayed) = recover(&log);
        assert_eq!((report.torn_bytes, report.damaged), (zeros as u64, 0));
        assert_eq!(replayed.state.events.len(), 6);
    }
    // The length of the last write survived, its bytes did not.
    let last = lines(&log[..len]).last().unwrap().len();
    log.truncate(len);
    log[len - last + 20..].fill(0);
    let (report, replayed) = recover(&log);
    assert_eq!(replayed.state.events.len(), 3, "the last batch is cut whole");
    assert_eq!(report.damaged, 0);
}

#[test]
fn the_rest_of_a_damaged_last_batch_stays_when_the_torn_tail_after_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(dir.path());
    let lines = lines(&log);
    // The first event of the batch of three, followed by an incomplete batch.
    let damaged = [&lines[..5].concat()[..], lines[8]].concat();
    let path = &segments(dir.path())[0];
    fs::write(path, damaged).unwrap();
    let mut found = Vec::new();
    for torn in [lines[8].len() as u64, 0, 0] {
        let storage = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
        let mut replayed = Replayed::default();
        let report = storage.recover(&mut replayed).unwrap();
        assert_eq!((report.torn_bytes, report.damaged), (torn, 1));
        found.push(replayed.mutations);
        block_on(storage.close()).unwrap();
    }
    assert_eq!(found[0].last(), Some(&Mutation::Publish(event("a", 1, 2, 3))));
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], found[2]);
    assert_eq!(fs::read(path).unwrap(), lines[..5].concat());
}

#[test]
fn a_damaged_record_inside_the_log_costs_only_itself_and_stays_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(dir.path());
    let at = memchr::memmem::find(&log, br#""id":"id-3""#).unwrap();
    let mut damaged = log;
    damaged[at + 7] = b'#';
    let file = segments(dir.path()).remove(0);
    fs::write(&file, &damaged).unwrap();

    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    assert_eq!((engine.report.damaged, engine.report.torn_bytes), (1, 0));
    assert_eq!(engine.storage.stats().damaged, 1);
    let left: Vec<_> = engine.state().events.keys().map(|(_, seq)| seq.0).collect();
    assert_eq!(left, [2, 4, 5, 6, 7], "the other events of its batch survive");
    engine.close().unwrap();
    assert_eq!(fs::read(&file).unwrap(), damaged);

    let stop = JsonLogConfig { on_damage: OnDamage::Stop, ..JsonLogConfig::new(dir.path()) };
    let error = Engine::open(stop).err().unwrap();
    assert_eq!(error.kind(), StorageErrorKind::Unusable);
    let line = damaged[..at].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for part in ["0000000000000001.jsonl", &format!("at byte {line}"), "checksum"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), damaged);
}

#[test]
fn an_event_damaged_after_it_was_written_reads_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(JsonLogConfig::new(dir.path())).unwrap();
    engine
        .commit(vec![Mutation::Subscribe { topic: topic("a"), subscription: subscription("one"), since: Seq(0) }])
        .unwrap();
    engine.commit((1..=3).map(|seq| Mutation::Publish(event("a", 0, seq, 30))).collect()).unwrap();
    let file = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let at = memchr::memmem::find(&bytes, br#""id":"id-2""#).unwrap();
    bytes[at - 3] ^= 1;
    fs::write(&file, bytes).unwrap();
    let key = |seq| ReadKey {
        topic: topic("a"),
        key: EventKey { priority: Priority(0), seq: Seq(seq) },
        place: engine.place("a", seq),
    };
    let got = block_on(engine.storage.read(vec![key(3), key(2), key(1)])).unwrap();
    assert_eq!(got.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(engine.storage.stats().damaged, 1);
}

#[test]
fn removed_and_duplicated_lines_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(dir.path());
    let all = lines(&log);
    let records = all.iter().filter(|line| line.starts_with(br#"{"batch""#)).count() - 1;
    for n in 0..all.len() - 1 {
        let without: Vec<u8> = [&all[..n], &all[n + 1..]].concat().concat();
        let (_, replayed) = recover(&without);
        assert!(replayed.mutations.len() >= records - 1, "without line {n}");
        let mut doubled = all[..=n].concat();
        doubled.extend_from_slice(&all[n..].concat());
        let (report, replayed) = recover(&doubled);
        assert_eq!((report.damaged, replayed.mutations.len()), (1, records), "line {n} twice");
    }
    // A line removed from the middle of a batch.
    let (report, _) = recover(&[&all[..5], &all[6..]].concat().concat());
    assert_eq!(report.damaged, 1);
}

#[test]
fn a_record_with_a_valid_checksum_and_invalid_content_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = small_log(dir.path());
    let all = lines(&log);
    for strange in [
        r#"{"batch":3,"left":0,"what":1"#,
        r#"{"batch":3,"left":0"#,
        r#"{"batch":3,"left":0,"settle":{"topic":"a","subscription":"one","events":{"0":[[0,18446744073709551615]]}}"#,
        r#"{"batch":3,"left":0,"settle":{"topic":"a/b","subscription":"one","events":{"0":[1]}}"#,
        r#"{"batch":3,"left":0,"seq":9,"at":1,"insert":99999,"event":{"topic":"a","priority":0,"msg":1,"id":"x"}"#,
        r#"{"batch":3,"left":0,"seq":9,"at":1,"text":{"topic":"a","priority":0}"#,
        r#"{"batch":99999999999999999999,"left":0,"seq":9,"at":1,"event":{}"#,
        "{",
        "",
        "null",
    ] {
        let crc = crc32fast::hash(strange.as_bytes());
        let line = format!("{strange},\"crc\":\"{crc:08x}\"}}\n");
        let mut log = all[..5].concat();
        log.extend_from_slice(line.as_bytes());
        log.extend_from_slice(&all[5..].concat());
        let (report, replayed) = recover(&log);
        assert_eq!(report.damaged, 1, "{strange}");
        assert_eq!(replayed.state.events.len(), 6, "{strange}");
    }
}

/// Writes a log of many segments, each with waiting events.
fn long_log(dir: &Path) {
    let engine = Engine::open(small_segments(dir)).unwrap();
    engine
        .commit(vec![Mutation::Subscribe { topic: topic("a"), subscription: subscription("one"), since: Seq(0) }])
        .unwrap();
    for seq in 1..=60 {
        engine.commit(vec![Mutation::Publish(event("a", 0, seq, 300))]).unwrap();
    }
    engine.close().unwrap();
    assert!(segments(dir).len() > 4);
}

#[test]
fn a_bad_tail_of_a_middle_segment_is_damage_and_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path());
    let file = segments(dir.path()).remove(1);
    let bytes = fs::read(&file).unwrap();
    let cut = &bytes[..bytes.len() - 10];
    fs::write(&file, cut).unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    assert_eq!(engine.report.torn_bytes, 0);
    assert!(engine.report.damaged >= 1);
    assert_eq!(engine.state().events.len(), 59);
    assert_eq!(fs::read(&file).unwrap(), cut);
}

#[test]
fn lines_cut_off_the_end_of_a_middle_segment_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path());
    let file = segments(dir.path()).remove(1);
    let bytes = fs::read(&file).unwrap();
    let all = lines(&bytes);
    fs::write(&file, all[..all.len() - 1].concat()).unwrap();
    let engine = Engine::open(small_segments(dir.path())).unwrap();
    assert_eq!((engine.report.damaged, engine.report.torn_bytes), (1, 0));
    assert_eq!(engine.state().events.len(), 59);
}

#[test]
fn a_missing_segment_is_damage_and_nothing_is_deleted_because_of_it() {
    for missing in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        long_log(dir.path());
        let mut files = segments(dir.path());
        fs::remove_file(files.remove(missing)).unwrap();
        let engine = Engine::open(small_segments(dir.path())).unwrap();
        assert_eq!(engine.report.damaged, 1, "one report for the missing segment");
        let state = engine.state();
        // The subscription's record was in the first segment; the next segment's catalogue has it too.
        assert_eq!(state.subscriptions.len(), 1);
        assert!(state.events.len() < 60 && state.events.len() > 40);
        engine.close().unwrap();
        assert_eq!(segments(dir.path()), files);

        let stop = JsonLogConfig { on_damage: OnDamage::Stop, ..small_segments(dir.path()) };
        let error = Engine::open(stop).err().unwrap();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

#[test]
fn a_damaged_header_costs_no_event() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path());
    for n in [0, 1, segments(dir.path()).len() - 1] {
        let file = segments(dir.path()).remove(n);
        let mut bytes = fs::read(&file).unwrap();
        bytes[30] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
    for _ in 0..2 {
        let engine = Engine::open(small_segments(dir.path())).unwrap();
        assert_eq!(engine.report.damaged, 3);
        assert_eq!(engine.state().events.len(), 60);
        assert_eq!(engine.state().subscriptions.len(), 1);
        engine.check_payloads();
        engine.close().unwrap();
    }
}

#[test]
fn a_newer_version_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let header = r#"{"herald":"json-log","version":2,"whatever":[1,2]"#;
    let line = format!("{header},\"crc\":\"{:08x}\"}}\nnew things", crc32fast::hash(header.as_bytes()));
    let file = dir.path().join("0000000000000001.jsonl");
    fs::write(&file, &line).unwrap();
    for clean_on_start in [false, true] {
        let config = JsonLogConfig { clean_on_start, ..JsonLogConfig::new(dir.path()) };
        let error = JsonLogStorage::open(config).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Unusable);
        assert!(error.to_string().contains("version 2"), "{error}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), line);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "not even a lock file");
}

#[test]
fn a_directory_of_another_kind_is_refused_and_nothing_is_touched() {
    for (files, what) in [
        (vec![("herald.db", "SQLite format 3\0…")], "SQLite"),
        (vec![("conf", "x"), ("db", "y")], "sled"),
        (vec![("0000000000000001.jsonl", "{\"some\":\"data\"}\n{\"of\":\"others\"}\n")], "another kind"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in &files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let config = JsonLogConfig::new(dir.path());
        let opened = JsonLogStorage::open(config).and_then(|storage| storage.recover(&mut Replayed::default()));
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Unusable);
        assert!(error.to_string().contains(what), "{error}");
        for (name, content) in &files {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), *content);
        }
    }
}

#[test]
fn stray_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path());
    let strays = ["notes.txt", "1.jsonl", "backup.jsonl", "0000000000000001.jsonl.bak", "0000000000000000.jsonl"];
    for stray in strays {
        fs::write(dir.path().join(stray), "stray").unwrap();
    }
    fs::create_dir(dir.path().join("0000000000000007.jsonl")).unwrap();
    for clean_on_start in [false, true] {
        let engine = Engine::open(JsonLogConfig { clean_on_start, ..JsonLogConfig::new(dir.path()) }).unwrap();
        assert_eq!(engine.state().events.len(), if clean_on_start { 0 } else { 6 });
        assert_eq!(engine.report.damaged, 0);
        engine.close().unwrap();
        for stray in strays {
            assert_eq!(fs::read_to_string(dir.path().join(stray)).unwrap(), "stray");
        }
    }
}
