//! json-log: the cost of encoding a batch as lines and handing them to the operating system.
//!
//! Nothing is synced while instructions are counted. The submitting thread writes small batches itself, so no other thread is
//! involved.

use std::future::Future;

use backend_json_log::{Durability, JsonLogConfig, JsonLogStorage};
use broker_core::name::SubscriptionName;
use broker_core::storage::{Batch, Mutation, Place, Recovery, Storage, StorageError};
use tokio::runtime::Runtime;

use crate::events;
use crate::{BATCH, EVENTS};

/// The number of events acknowledged together: the batch still counts as small with the resulting mutations included.
const ACKNOWLEDGED: usize = BATCH / 2;

struct Nothing;

impl Recovery for Nothing {
    fn replay(&mut self, _mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        Ok(())
    }
}

/// Runs all phases in this module and returns their names.
pub(crate) fn run() -> Vec<&'static str> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory for the log");
    let config = JsonLogConfig { durability: Durability::Never, ..JsonLogConfig::new(dir.path().join("log")) };
    let storage = JsonLogStorage::open(config).expect("an empty log");
    storage.recover(&mut Nothing).expect("an empty log");
    let (topic, msg) = (events::topic(), events::msg());
    let subscription = SubscriptionName::new("inbox").expect("a good name");
    for first in (0..EVENTS).step_by(BATCH) {
        let batch = first..first + BATCH;
        let publish = |n| Mutation::Publish(events::stored(n, &topic, &msg));
        let places = count_log_publish(&runtime, &storage, Batch { mutations: batch.clone().map(publish).collect() });
        assert_eq!(places.len(), BATCH);
        let stored: Vec<_> = batch.zip(places).collect();
        for stored in stored.chunks(ACKNOWLEDGED) {
            let settle = Mutation::Settle {
                topic: topic.clone(),
                subscription: subscription.clone(),
                events: stored.iter().map(|(n, _)| events::key(*n)).collect(),
            };
            let release = |(n, place): &(usize, Place)| Mutation::Release {
                topic: topic.clone(),
                key: events::key(*n),
                place: *place,
            };
            let mutations = std::iter::once(settle).chain(stored.iter().map(release)).collect();
            count_log_ack(&runtime, &storage, Batch { mutations });
        }
    }
    runtime.block_on(storage.close()).expect("it is synced");
    vec!["log-publish", "log-ack"]
}

fn wait<T>(runtime: &Runtime, stage: impl Future<Output = Result<T, StorageError>>) -> T {
    runtime.block_on(stage).expect("the disk takes it")
}

#[inline(never)]
fn count_log_publish(runtime: &Runtime, storage: &JsonLogStorage, batch: Batch) -> Vec<Place> {
    wait(runtime, storage.submit(batch).written)
}

#[inline(never)]
fn count_log_ack(runtime: &Runtime, storage: &JsonLogStorage, batch: Batch) {
    wait(runtime, storage.submit(batch).written);
}
