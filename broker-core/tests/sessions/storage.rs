//! The simplest storage: it keeps payloads in memory, and a batch is safe the moment it is submitted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Janitor, Level, Mutation, Place, ReadKey, Recovery, RecoveryReport, Storage, StorageError,
    StorageFigures, stage,
};

#[derive(Debug, Default)]
pub(crate) struct InMemory {
    payloads: Mutex<HashMap<Place, Payload>>,
}

impl InMemory {
    fn payloads(&self) -> MutexGuard<'_, HashMap<Place, Payload>> {
        self.payloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Storage for InMemory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn level(&self) -> Level {
        Level::Synced
    }

    fn recover(&self, _recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        Ok(RecoveryReport::default())
    }

    fn start(&self, _janitor: Arc<dyn Janitor>) {}

    fn submit(&self, batch: Batch) -> Commit {
        let (written, written_stage) = stage();
        let (safe, safe_stage) = stage();
        let mut payloads = self.payloads();
        let mut places = Vec::new();
        for mutation in batch.mutations {
            if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = mutation {
                let place = Place(payloads.len() as u64);
                payloads.insert(place, event.payload);
                places.push(place);
            }
        }
        written.complete(Ok(places));
        safe.complete(Ok(()));
        Commit { written: written_stage, safe: safe_stage }
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        let payloads = self.payloads();
        Ok(keys.iter().map(|key| payloads.get(&key.place).cloned()).collect())
    }

    fn figures(&self) -> StorageFigures {
        StorageFigures::default()
    }

    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
