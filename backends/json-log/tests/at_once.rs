//! Small batches are written by the submitting thread, without delaying any other batch.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use backend_json_log::{Durability, JsonLogConfig, JsonLogStorage};
use broker_core::event::{EventKey, Priority, Seq};
use broker_core::storage::*;
use common::block_on;
use common::engine::{event, subscription, topic};

struct Nothing;

impl Recovery for Nothing {
    fn replay(&mut self, _mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        Ok(())
    }
}

struct Counted(Vec<Mutation>);

impl Recovery for Counted {
    fn replay(&mut self, mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        self.0.push(mutation);
        Ok(())
    }
}

fn open(dir: &std::path::Path, durability: Durability) -> JsonLogStorage {
    let storage = JsonLogStorage::open(JsonLogConfig { durability, ..JsonLogConfig::new(dir) }).unwrap();
    storage.recover(&mut Nothing).unwrap();
    storage
}

fn publish(seqs: impl IntoIterator<Item = u64>) -> Batch {
    Batch { mutations: seqs.into_iter().map(|seq| Mutation::Publish(event("a", 0, seq, 100))).collect() }
}

fn settle(seq: u64) -> Batch {
    let events = vec![EventKey { priority: Priority(0), seq: Seq(seq) }];
    Batch { mutations: vec![Mutation::Settle { topic: topic("a"), subscription: subscription("s"), events }] }
}

fn subscribe() -> Batch {
    Batch { mutations: vec![Mutation::Subscribe { topic: topic("a"), subscription: subscription("s"), since: Seq(0) }] }
}

/// Whether the stage is already complete, without waiting.
fn is_over<T>(stage: Stage<T>) -> bool {
    let mut stage = pin!(stage);
    matches!(stage.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_)))
}

#[test]
fn a_small_batch_is_written_when_submit_returns_if_the_writer_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), Durability::Interval);
    assert!(is_over(storage.submit(subscribe()).written));
    for seq in 1..=20 {
        let commit = storage.submit(publish([seq]));
        assert!(is_over(commit.written) && is_over(commit.durable), "{seq}");
        assert!(is_over(storage.submit(settle(seq)).written), "{seq}");
    }
    let large = storage.submit(publish(21..=1000));
    assert_eq!(block_on(large.written).unwrap().len(), 980, "a large batch goes to the writing thread");
    block_on(storage.close()).unwrap();
    assert!(!is_over(storage.submit(settle(21)).written), "nothing is written to a closed storage");
}

#[test]
fn an_acknowledgement_is_synced_soon_although_no_client_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), Durability::Always);
    block_on(storage.submit(subscribe()).durable).unwrap();
    block_on(storage.submit(publish([1])).durable).unwrap();
    let before = storage.stats().syncs;
    block_on(storage.submit(settle(1)).durable).unwrap();
    assert_eq!(storage.stats().syncs, before + 1);
}

#[test]
fn batches_keep_their_order_whichever_thread_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), Durability::Always);
    let mut last = storage.submit(subscribe());
    let mut next = 1;
    // Some are written by this thread, some by the writing thread, and some during a sync.
    for round in 0..300_u64 {
        let count = if round % 7 == 0 { 100 } else { 1 };
        last = storage.submit(publish(next..next + count));
        next += count;
        if round % 40 == 0 {
            block_on(last.durable).unwrap();
            last = storage.submit(Batch { mutations: Vec::new() });
        }
    }
    block_on(last.durable).unwrap();
    block_on(storage.close()).unwrap();
    drop(storage);
    let storage = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    let mut found = Counted(Vec::new());
    assert_eq!(storage.recover(&mut found).unwrap().damaged, 0);
    let seqs = found.0.iter().filter_map(|mutation| match mutation {
        Mutation::Publish(event) => Some(event.key.seq.0),
        _ => None,
    });
    assert!(seqs.eq(1..next), "in the order in which they were submitted");
}
