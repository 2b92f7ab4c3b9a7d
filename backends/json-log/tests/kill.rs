//! A child process is killed under load; every batch that it reported as durable survives.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use backend_json_log::JsonLogConfig;
use broker_core::event::{EventKey, Priority, Seq};
use broker_core::storage::*;
use common::block_on;
use common::engine::{Engine, event, subscription, topic};

const DIRECTORY: &str = "JSON_LOG_KILL_TEST_DIRECTORY";

fn config(path: impl Into<std::path::PathBuf>) -> JsonLogConfig {
    JsonLogConfig { segment_bytes: 64 << 10, ..JsonLogConfig::new(path) }
}

/// Not a test: the child process runs this. Prints the last sequence of each batch of five once it is durable.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIRECTORY) else { return };
    let engine = Engine::open(config(dir)).unwrap();
    let state = engine.state();
    if state.subscriptions.is_empty() {
        engine
            .commit(vec![Mutation::Subscribe { topic: topic("a"), subscription: subscription("one"), since: Seq(0) }])
            .unwrap();
    }
    let mut seq = state.topics.get(&topic("a")).map_or(0, |seq| seq.0);
    let mut waiting = std::collections::VecDeque::new();
    let out = std::io::stdout();
    loop {
        let mut batch: Vec<_> = (seq + 1..=seq + 5).map(|seq| Mutation::Publish(event("a", 0, seq, 200))).collect();
        // All but the fifth of each batch are settled two batches later, so that the cleaner has events to move.
        if seq >= 10 {
            let key = |seq| EventKey { priority: Priority(0), seq: Seq(seq) };
            let events = (seq - 9..=seq - 6).map(key).collect();
            batch.push(Mutation::Settle { topic: topic("a"), subscription: subscription("one"), events });
        }
        seq += 5;
        waiting.push_back((seq, engine.submit(batch).unwrap()));
        if waiting.len() > 20 {
            let (seq, stage) = waiting.pop_front().unwrap();
            block_on(stage).unwrap();
            writeln!(out.lock(), "\ndurable {seq}").unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_durable() {
    if std::env::var(DIRECTORY).is_ok() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut durable = 0;
        let mut next = || loop {
            match lines.next() {
                Some(Ok(line)) => {
                    if let Some(seq) = line.strip_prefix("durable ") {
                        return seq.parse::<u64>().ok();
                    }
                }
                _ => return None,
            }
        };
        // Each round kills at a different moment: after a number of confirmations and a short delay.
        for _ in 0..20 + round * 37 {
            durable = next().expect("the child runs until it is killed");
        }
        std::thread::sleep(Duration::from_micros(round * 531));
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(seq) = next() {
            durable = seq;
        }

        let engine = Engine::open(config(dir.path())).unwrap();
        assert_eq!(engine.report.damaged, 0);
        let state = engine.state();
        let last = state.topics[&topic("a")].0;
        assert!(last >= durable, "round {round}: {durable} was durable, {last} is the last");
        assert_eq!(last % 5, 0, "a batch of five survives whole or not at all");
        // Every fifth event waits indefinitely, and so does every event of the last two batches.
        for seq in 1..=last {
            let waits = state.events.contains_key(&(topic("a"), Seq(seq)));
            assert_eq!(waits, seq % 5 == 0 || seq + 10 > last, "round {round}: event {seq} of {last}");
        }
        assert!(last > before, "round {round}: the child continued where it was killed");
        before = last;
        engine.check_payloads();
        engine.close().unwrap();
    }
}
