//! The batches that are written under faults, and the states that may be found afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use super::super::bench::{PATIENCE, cursor, event, key, settle, subscribe, subscription, topic};
use super::super::{ContractBackend, Model};
use crate::error_chain;
use crate::event::{Millis, Seq};
use crate::storage::{Batch, Mutation, RecoveryReport, Redelivery, Storage, StorageError, StorageErrorKind};

/// A directory for one run, in memory where possible, since the claims do not depend on a real disk.
#[must_use]
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir()).expect("a directory for the test")
}

/// A runtime for the storage's asynchronous calls.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made")
}

/// Batches with every kind of mutation. Each leaves a state that differs from all earlier ones.
#[must_use]
pub fn batches() -> Vec<Vec<Mutation>> {
    let redeliver = |seq, deliveries, due: Option<u64>| Mutation::Redeliver {
        topic: topic("orders"),
        subscription: subscription("audit"),
        events: vec![Redelivery { key: key(0, seq), deliveries, due_at: due.map(Millis), grace_ms: 0 }],
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
        vec![settle("orders", "billing", [4]), redeliver(1, 1, None)],
        late,
        // Longer than a page of any storage.
        publish(9..=9, 40_000),
        vec![subscribe("quiet", "nobody", 0), redeliver(2, 3, Some(1_900_000_000_000))],
        vec![settle("orders", "audit", [3, 5]), settle("orders", "billing", [3, 5]), cursor("feed", "9")],
        publish(10..=12, 300),
    ]
}

/// The observations of a run.
#[derive(Debug)]
pub struct Seen {
    /// The state before the first batch, and after each submitted one.
    pub history: Vec<Model>,
    /// The number of batches confirmed as durable.
    pub durable: usize,
    /// The error of the first that was not.
    pub error: Option<StorageError>,
}

/// Commits all batches, two at a time. The test fails if a batch is confirmed after one that was not.
pub fn commit_all(storage: &impl Storage, state: &Model, batches: Vec<Vec<Mutation>>) -> Seen {
    let mut seen = Seen { history: vec![state.clone()], durable: 0, error: None };
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
            let both = async { (commit.written.await.map(drop), commit.durable.await) };
            let (written, durable) = runtime.block_on(async {
                tokio::time::timeout(PATIENCE, both).await.expect("a commit completes, whatever happens")
            });
            assert!(written.is_ok() || durable.is_err(), "it is not durable if it is not written: {written:?}");
            match (durable, &seen.error) {
                (Ok(()), None) => seen.durable += 1,
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

/// Closes a storage in which something failed, and drops it.
pub fn close_failed<S: Storage>(storage: S, failed: bool) {
    let closed = runtime().block_on(async {
        tokio::time::timeout(PATIENCE, storage.close()).await.expect("closing ends, whatever happened")
    });
    assert!(closed.is_err() || !failed, "closing says that the last batches may not be there");
}

/// An open and recovered storage, and the state that it handed back.
pub type Opened<S> = (S, Model, RecoveryReport);

/// Opens and recovers, waiting a moment for the previous owner to release the lock.
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

/// Opens the directory. It must hold a state that existed, no older than the confirmed one. Then commits more, and checks again.
pub fn check<B: ContractBackend>(dir: &Path, seen: &Seen, what: &str) {
    let (storage, found, report) = open::<B>(dir).unwrap_or_else(|error| panic!("{what}: {}", error_chain(&error)));
    assert_eq!(report.damaged, 0, "{what}: what was left half-written is no damage");
    let there = found.needed();
    let is_one_of_them = seen.history[seen.durable..].iter().any(|state| state.needed() == there);
    assert!(
        is_one_of_them,
        "{what}: no state since {} of {} batches: {there:#?}",
        seen.durable,
        seen.history.len() - 1
    );
    let seq = there.topics.get("orders").map_or(0, |topic| topic.last_seq) + 1;
    let more = vec![subscribe("orders", "more", seq - 1), Mutation::Publish(event("orders", 0, seq, 50))];
    let went_on = commit_all(&storage, &found, vec![more]);
    assert_eq!((went_on.durable, went_on.error.map(|error| error.to_string())), (1, None), "{what}: it goes on");
    close_failed(storage, false);
    let (storage, again, report) = open::<B>(dir).unwrap_or_else(|error| panic!("{what}: {}", error_chain(&error)));
    assert_eq!((report.damaged, report.torn_bytes), (0, 0), "{what}: after it went on");
    went_on.history[1].assert_same(&again, what);
    drop(storage);
}

/// The latest sequence of `orders`, for tests that commit more themselves.
#[must_use]
pub fn last_seq(model: &Model) -> Seq {
    Seq(model.topics.get("orders").map_or(0, |topic| topic.last_seq))
}
