//! A storage that completes every request immediately and keeps nothing, so that only the broker's own work is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Janitor, Level, Mutation, Place, ReadKey, Recovery, RecoveryReport, Storage, StorageError,
    StorageStats, stage,
};

/// Discards every event and reports it durable.
#[derive(Debug, Default)]
pub(crate) struct InstantStorage {
    places: AtomicU64,
}

#[async_trait]
impl Storage for InstantStorage {
    fn kind(&self) -> &'static str {
        "instant"
    }

    fn level(&self) -> Level {
        Level::Synced
    }

    fn recover(&self, _recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        Ok(RecoveryReport::default())
    }

    fn start(&self, _janitor: Arc<dyn Janitor>) {}

    fn submit(&self, batch: Batch) -> Commit {
        let (wrote, written) = stage();
        let (saved, durable) = stage();
        let events = batch.mutations.iter().filter(|mutation| matches!(mutation, Mutation::Publish(_))).count() as u64;
        let first = self.places.fetch_add(events, Ordering::Relaxed);
        wrote.complete(Ok((first..first + events).map(Place).collect()));
        saved.complete(Ok(()));
        Commit { written, durable }
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    fn stats(&self) -> StorageStats {
        StorageStats::default()
    }

    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
