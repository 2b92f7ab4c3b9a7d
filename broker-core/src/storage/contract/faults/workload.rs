//! What is written while something goes wrong, and what must be found afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use super::super::bench::{PATIENCE, cursor, event, key, settle, subscribe, subscription, topic};
use super::super::{ContractBackend, Model};
use crate::event::{Millis, Seq};
use crate::storage::{Batch, Mutation, RecoveryReport, Requeued, Storage, StorageError, StorageErrorKind};

/// A directory for one run; in memory where that is possible, since what is shown here does not depend on a disk.
#[must_use]
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir()).expect("a directory for the test")
}

/// A runtime for what a storage does asynchronously.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made")
}

/// Batches with every kind of mutation; each leaves a state that differs from all before it.
#[must_use]
pub fn batches() -> Vec<Vec<Mutation>> {
    let requeue = |seq, deliveries, due: Option<u64>| Mutation::Requeue {
        topic: topic("orders"),
        subscription: subscription("audit"),
        events: vec![Requeued { key: key(0, seq), deliveries, due_at: due.map(Millis), grace_ms: 0 }],
    };
    let publish = |seqs: std::ops::RangeInclusive<u64>, bytes: usize| {
        seqs.map(move |seq| Mutation::Publish(event("orders", 0, seq, bytes))).collect::<Vec<_>>()
    };
    let mut late = publish(6..=8, 900);
    late.extend([settle("orders", "billing", [1, 2]), cursor("feed", "8")]);
    vec![
        vec![subscribe("orders", "billing", 0), subscribe("orders", "audit", 0)],
        publish(1..=3, 200),
        [publish(4..=5, 30), vec![cursor("feed", "5")]].concat(),
        vec![settle("orders", "billing", [4]), requeue(1, 1, None)],
        late,
        // Longer than a page of any storage.
        publish(9..=9, 40_000),
        vec![subscribe("quiet", "nobody", 0), requeue(2, 3, Some(1_900_000_000_000))],
        vec![settle("orders", "audit", [3, 5]), settle("orders", "billing", [3, 5]), cursor("feed", "9")],
        publish(10..=12, 300),
    ]
}

/// What a run has seen.
#[derive(Debug)]
pub struct Seen {
    /// The state before the first batch and after each that was submitted.
    pub history: Vec<Model>,
    /// How many batches were confirmed as safe.
    pub safe: usize,
    /// Why later ones were not.
    pub error: Option<StorageError>,
}

/// Commits all batches, two at a time. What is confirmed after one that was not is a failure of the test.
pub fn commit_all(storage: &impl Storage, state: &Model, batches: Vec<Vec<Mutation>>) -> Seen {
    let mut seen = Seen { history: vec![state.clone()], safe: 0, error: None };
    let runtime = runtime();
    let mut batches = batches.into_iter().peekable();
    while batches.peek().is_some() {
        let mut commits = Vec::new();
        for mutations in batches.by_ref().take(2) {
            let mut next = seen.history.last().cloned().unwrap_or_default();
            mutations.iter().for_each(|mutation| next.apply(mutation));
            seen.history.push(next);
            commits.push(storage.submit(Batch { mutations }));
        }
        for commit in commits {
            let both = async { (commit.written.await.map(drop), commit.safe.await) };
            let (written, safe) = runtime.block_on(async {
                tokio::time::timeout(PATIENCE, both).await.expect("a commit completes, whatever happens")
            });
            assert!(written.is_ok() || safe.is_err(), "it is not safe if it is not written: {written:?}");
            match (safe, &seen.error) {
                (Ok(()), None) => seen.safe += 1,
                (Ok(()), Some(error)) => panic!("a batch is confirmed after one failed: {error}"),
                (Err(error), None) => seen.error = Some(error),
                (Err(error), Some(first)) => {
                    assert_eq!(error.to_string(), first.to_string(), "the first reason stays");
                }
            }
        }
    }
    seen
}

/// Closes a storage in which something failed, and lets go of it.
pub fn close_failed<S: Storage>(storage: S, failed: bool) {
    let closed = runtime().block_on(async {
        tokio::time::timeout(PATIENCE, storage.close()).await.expect("closing ends, whatever happened")
    });
    assert!(closed.is_err() || !failed, "closing says that the last batches may not be there");
}

/// An open and recovered storage, and what it handed back.
pub type Opened<S> = (S, Model, RecoveryReport);

/// Opens and recovers. Whoever let go of the directory may need a moment to do so.
///
/// # Errors
/// Those of the storage.
pub fn open<B: ContractBackend>(dir: &Path) -> Result<Opened<B::Storage>, StorageError> {
    let began = Instant::now();
    let storage = loop {
        match B::open(dir) {
            Err(error) if error.kind() == StorageErrorKind::Locked && began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => break opened?,
        }
    };
    let mut found = Model::default();
    let report = storage.recover(&mut found)?;
    Ok((storage, found, report))
}

/// Opens what is left, which must be a state that there was, not older than what was confirmed; goes on with it and looks again.
pub fn check<B: ContractBackend>(dir: &Path, seen: &Seen, what: &str) {
    let (storage, found, report) = open::<B>(dir).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    assert_eq!(report.damaged, 0, "{what}: what was left half-written is no damage");
    let there = found.needed();
    let is_one_of_them = seen.history[seen.safe..].iter().any(|state| state.needed() == there);
    assert!(is_one_of_them, "{what}: no state since {} of {} batches: {there:#?}", seen.safe, seen.history.len() - 1);
    let seq = there.topics.get("orders").map_or(0, |topic| topic.last_seq) + 1;
    let more = vec![subscribe("orders", "more", seq - 1), Mutation::Publish(event("orders", 0, seq, 50))];
    let went_on = commit_all(&storage, &found, vec![more]);
    assert_eq!((went_on.safe, went_on.error.map(|error| error.to_string())), (1, None), "{what}: it goes on");
    close_failed(storage, false);
    let (storage, again, report) = open::<B>(dir).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    assert_eq!((report.damaged, report.torn_bytes), (0, 0), "{what}: after it went on");
    went_on.history[1].assert_same(&again, what);
    drop(storage);
}

/// An error with its causes, as an operator gets to see it.
#[must_use]
pub fn chain(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// The latest sequence of `orders`, for tests that go on by themselves.
#[must_use]
pub fn last_seq(model: &Model) -> Seq {
    Seq(model.topics.get("orders").map_or(0, |topic| topic.last_seq))
}
