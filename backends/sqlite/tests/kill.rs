//! A child process writes under load and is killed; all that it printed as safe, or as acknowledged, is as it said.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use backend_sqlite::{Durability, SqliteConfig, SqliteStorage};
use broker_core::storage::contract::Model;
use broker_core::storage::contract::bench::{cursor, event, key, settle, subscribe, topic};
use broker_core::storage::{Batch, Commit, Mutation, Place, RecoveryReport, Storage};

const DIRECTORY: &str = "SQLITE_KILL_TEST_DIRECTORY";
const DURABILITY: &str = "SQLITE_KILL_TEST_DURABILITY";

fn durability(word: &str) -> Durability {
    serde_json::from_value(serde_json::Value::from(word)).unwrap()
}

fn open(dir: &std::path::Path, durability: Durability) -> (SqliteStorage, Model, RecoveryReport) {
    let storage = SqliteStorage::open(SqliteConfig { durability, ..SqliteConfig::new(dir) }).unwrap();
    let mut found = Model::default();
    let report = storage.recover(&mut found).unwrap();
    (storage, found, report)
}

/// Events come in batches of five. Of each batch the fifth waits for good, the others are settled and released two batches
/// later; every tenth is large.
fn mutations(seq: u64) -> Vec<Mutation> {
    let bytes = |seq: u64| if seq.is_multiple_of(10) { 40_000 } else { 200 };
    let mut batch: Vec<_> = (seq + 1..=seq + 5).map(|seq| Mutation::Publish(event("a", 0, seq, bytes(seq)))).collect();
    if seq >= 10 {
        batch.push(settle("a", "one", seq - 9..=seq - 6));
        let release = |seq| Mutation::Release { topic: topic("a"), key: key(0, seq), place: Place(0) };
        batch.extend((seq - 9..=seq - 6).map(release));
    }
    batch.push(cursor("feed", seq + 5));
    batch
}

/// Not a test: what the child runs. Prints the last sequence of each batch that is as safe as a confirmation needs.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIRECTORY) else { return };
    let (storage, found, _) = open(dir.as_ref(), durability(&std::env::var(DURABILITY).unwrap()));
    if found.topics.is_empty() {
        storage.submit(Batch { mutations: vec![subscribe("a", "one", 0)] });
    }
    let mut seq = found.topics.get("a").map_or(0, |topic| topic.last_seq);
    let mut waiting: VecDeque<(u64, Commit)> = VecDeque::new();
    let out = std::io::stdout();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    loop {
        waiting.push_back((seq + 5, storage.submit(Batch { mutations: mutations(seq) })));
        seq += 5;
        if waiting.len() > 20 {
            let (seq, commit) = waiting.pop_front().unwrap();
            runtime.block_on(async { (commit.written.await.unwrap(), commit.safe.await.unwrap()) });
            writeln!(out.lock(), "\nsafe {seq}").unwrap();
        }
    }
}

fn kill_rounds(word: &str, rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, dir.path())
            .env(DURABILITY, word)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || loop {
            match lines.next() {
                Some(Ok(line)) => {
                    if let Some(seq) = line.strip_prefix("safe ") {
                        return seq.parse::<u64>().ok();
                    }
                }
                _ => return None,
            }
        };
        let mut safe = 0;
        // A different moment each time: after so many confirmations and a little more.
        for _ in 0..20 + round * 37 {
            safe = next().expect("the child runs until it is killed");
        }
        std::thread::sleep(Duration::from_micros(round * 531));
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(seq) = next() {
            safe = seq;
        }

        let (storage, found, report) = open(dir.path(), Durability::Always);
        assert_eq!(report.damaged, 0);
        let there = &found.topics["a"];
        let last = there.last_seq;
        assert!(last >= safe, "{word}, round {round}: {safe} was safe, {last} is the last");
        assert_eq!(last % 5, 0, "a batch of five is there whole or not at all");
        assert_eq!(found.cursors["feed"], last.to_string(), "the cursor is that of the last batch");
        for seq in 1..=last {
            let waits = there.events.get(&seq).is_some_and(|held| !held.holders.is_empty());
            assert_eq!(waits, seq % 5 == 0 || seq + 10 > last, "{word}, round {round}: event {seq} of {last}");
        }
        let whole = there.events.values().all(|held| {
            let written =
                event("a", 0, held.event.key.seq.0, if held.event.key.seq.0.is_multiple_of(10) { 40_000 } else { 200 });
            held.event == written
        });
        assert!(whole, "{word}, round {round}: the events are what they were");
        assert!(last > before, "{word}, round {round}: the child went on where it was killed");
        before = last;
        drop(storage);
    }
}

/// Without a power failure `written` is as good as `safe`, so it holds at every level. One after the other in one test: what is
/// spawned beside another test would hold that one's lock for a moment.
#[test]
fn a_killed_process_loses_nothing_that_was_safe() {
    if std::env::var(DIRECTORY).is_err() {
        kill_rounds("always", 8);
        kill_rounds("interval", 4);
        kill_rounds("never", 4);
    }
}
