//! Killed processes: a child writes under load until it is killed, and what it reported as durable must be there.
//!
//! Only a process can be killed, so the child is the test binary itself, started again with the test `child` alone and told by
//! an environment variable to write. See [`storage_kill_contract!`](crate::storage_kill_contract).

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::Model;
use super::bench::{cursor, event, key, settle, subscribe, topic};
use crate::storage::{Batch, Commit, Mutation, Place, RecoveryReport, Storage, StorageError};

/// The data directory of the child. A process that has it is the child.
const DIRECTORY: &str = "HERALD_KILL_TEST_DIRECTORY";

/// The durability that the child opens the storage with.
const DURABILITY: &str = "HERALD_KILL_TEST_DURABILITY";

/// The start of a line by which the child reports that events up to a sequence are durable.
const REPORT: &str = "durable ";

/// Events of a batch.
const BATCH: u64 = 5;

/// Batches that the child keeps submitted and not yet durable, so that a kill meets the storage in the middle of its work.
const OUTSTANDING: usize = 20;

/// A storage whose process is killed.
pub trait KillBackend {
    /// The storage.
    type Storage: Storage;

    /// Opens the data directory `dir`, which may not exist yet. `durability` is `always`, `interval` or `never`.
    ///
    /// # Errors
    /// Those of the backend.
    fn open(dir: &Path, durability: &str) -> Result<Self::Storage, StorageError>;
}

/// The test that kills processes over a [`contract::kill::KillBackend`](crate::storage::contract::kill::KillBackend), and the
/// child it kills. Stands at the top of a test file of its own: the child is found by its name.
#[macro_export]
macro_rules! storage_kill_contract {
    ($backend:ty) => {
        /// Not a test: what the killed process runs. It returns at once in any other.
        #[test]
        fn child() {
            $crate::storage::contract::kill::child::<$backend>();
        }

        #[test]
        fn a_killed_process_loses_nothing_that_was_durable() {
            $crate::storage::contract::kill::nothing_durable_is_lost::<$backend>();
        }
    };
}

/// Writes batches until it is killed, and reports the last sequence of each that is durable.
pub fn child<B: KillBackend>() {
    let (Ok(dir), Ok(durability)) = (std::env::var(DIRECTORY), std::env::var(DURABILITY)) else { return };
    let (storage, found, _) = open::<B>(dir.as_ref(), &durability);
    if found.topics.is_empty() {
        storage.submit(Batch { mutations: vec![subscribe("a", "one", 0)] });
    }
    let mut seq = found.topics.get("a").map_or(0, |topic| topic.last_seq);
    let mut waiting: VecDeque<(u64, Commit)> = VecDeque::new();
    let out = std::io::stdout();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    loop {
        waiting.push_back((seq + BATCH, storage.submit(Batch { mutations: mutations(seq) })));
        seq += BATCH;
        if waiting.len() > OUTSTANDING
            && let Some((seq, commit)) = waiting.pop_front()
        {
            runtime.block_on(super::bench::durable(commit));
            // On a line of its own, whatever the test harness has written before it.
            writeln!(out.lock(), "\n{REPORT}{seq}").expect("the parent reads it");
        }
    }
}

/// Kills children at different moments, at each durability.
///
/// A kill is no power failure: what is `written` survives it, and a batch is `written` before it is `durable`, so nothing may be
/// missing at any durability. All rounds are one test, since a child started beside another test would inherit, for a moment,
/// that one's lock.
pub fn nothing_durable_is_lost<B: KillBackend>() {
    if std::env::var(DIRECTORY).is_err() {
        kill_rounds::<B>("always", 8);
        kill_rounds::<B>("interval", 4);
        kill_rounds::<B>("never", 4);
    }
}

fn kill_rounds<B: KillBackend>(durability: &str, rounds: u64) {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let mut before = 0;
    for round in 0..rounds {
        let (mut child, mut reports) = spawn(dir.path(), durability);
        let mut durable = 0;
        // Each round kills at another moment: after more reports and a little longer.
        for _ in 0..20 + round * 37 {
            durable = reports.next().expect("the child runs until it is killed");
        }
        std::thread::sleep(Duration::from_micros(round * 531));
        child.kill().expect("it runs");
        child.wait().expect("it was started");
        // What it reported between the last line read and its death counts as well.
        durable = reports.last().unwrap_or(durable);

        let (storage, found, report) = open::<B>(dir.path(), "always");
        let when = format!("{durability}, round {round}");
        let last = check(&found, &report, durable, &when);
        assert!(last > before, "{when}: the child went on where it was killed");
        before = last;
        drop(storage);
    }
}

/// Checks what a killed child has left, and returns the last sequence.
fn check(found: &Model, report: &RecoveryReport, durable: u64, when: &str) -> u64 {
    assert_eq!(report.damaged, 0, "{when}");
    let there = &found.topics["a"];
    let last = there.last_seq;
    assert!(last >= durable, "{when}: {durable} was durable, {last} is the last");
    assert_eq!(last % BATCH, 0, "{when}: a batch is there whole or not at all");
    assert_eq!(found.cursors["feed"], last.to_string(), "{when}: the cursor is that of the last batch");
    for seq in 1..=last {
        let waits = there.events.get(&seq).is_some_and(|held| !held.holders.is_empty());
        assert_eq!(waits, seq % BATCH == 0 || seq + 2 * BATCH > last, "{when}: event {seq} of {last}");
    }
    let whole = there
        .events
        .values()
        .all(|held| held.event == event("a", 0, held.event.key.seq.0, bytes(held.event.key.seq.0)));
    assert!(whole, "{when}: the events are what they were");
    last
}

/// The size of an event's message: every tenth is large.
fn bytes(seq: u64) -> usize {
    if seq.is_multiple_of(10) { 40_000 } else { 200 }
}

/// The batch after `seq`. The fifth event of each batch is never settled; the others are settled and released two batches later,
/// so that a storage has space to free while it is killed.
fn mutations(seq: u64) -> Vec<Mutation> {
    let new = seq + 1..=seq + BATCH;
    let mut batch: Vec<_> = new.map(|seq| Mutation::Publish(event("a", 0, seq, bytes(seq)))).collect();
    if seq >= 2 * BATCH {
        let old = seq + 1 - 2 * BATCH..=seq - BATCH - 1;
        batch.push(settle("a", "one", old.clone()));
        let release = |seq| Mutation::Release { topic: topic("a"), key: key(0, seq), place: Place(0) };
        batch.extend(old.map(release));
    }
    batch.push(cursor("feed", seq + BATCH));
    batch
}

fn open<B: KillBackend>(dir: &Path, durability: &str) -> (B::Storage, Model, RecoveryReport) {
    let storage = B::open(dir, durability).expect("it opens");
    let mut found = Model::default();
    let report = storage.recover(&mut found).expect("it recovers");
    (storage, found, report)
}

/// Starts the child. The reports end when it does.
fn spawn(dir: &Path, durability: &str) -> (Child, Reports) {
    let mut child = Command::new(std::env::current_exe().expect("the test binary"))
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .env(DURABILITY, durability)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary starts again");
    let reports = Reports(BufReader::new(child.stdout.take().expect("it is piped")).lines());
    (child, reports)
}

/// The sequences that a child reports.
struct Reports(Lines<BufReader<ChildStdout>>);

impl Iterator for Reports {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // The last line may have been cut off by the kill.
        loop {
            let line = self.0.next()?.ok()?;
            if let Some(seq) = line.strip_prefix(REPORT) {
                return seq.parse().ok();
            }
        }
    }
}
