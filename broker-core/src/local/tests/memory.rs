//! A storage in memory whose commits a test can hold back, fail, and replay.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::event::Payload;
use crate::storage::{
    Batch, Commit, Completer, Janitor, Level, Mutation, Place, ReadKey, Recovery, RecoveryReport, Storage,
    StorageError, StorageErrorKind, StorageStats, stage,
};

#[derive(Default)]
struct State {
    log: Vec<Vec<(Mutation, Place)>>,
    places: u64,
    reads: usize,
    hold_written: bool,
    hold_durable: bool,
    written: Vec<(Completer<Vec<Place>>, Vec<Place>)>,
    durable: Vec<Completer<()>>,
    failed: Option<StorageError>,
    janitor: Option<Arc<dyn Janitor>>,
}

#[derive(Default)]
pub(super) struct MemoryStorage {
    state: Mutex<State>,
}

impl MemoryStorage {
    /// The storage as a restart finds it after a kill at this moment.
    pub(super) fn reopened(&self) -> Self {
        let state = self.state.lock().unwrap();
        let next = State { log: state.log.clone(), places: state.places, ..State::default() };
        Self { state: Mutex::new(next) }
    }

    pub(super) fn hold(&self, written: bool, durable: bool) {
        let mut state = self.state.lock().unwrap();
        (state.hold_written, state.hold_durable) = (written, durable);
    }

    pub(super) fn release(&self) {
        self.hold(false, false);
        let mut state = self.state.lock().unwrap();
        let (written, durable) = (std::mem::take(&mut state.written), std::mem::take(&mut state.durable));
        written.into_iter().for_each(|(completer, places)| completer.complete(Ok(places)));
        durable.into_iter().for_each(|completer| completer.complete(Ok(())));
    }

    pub(super) fn release_written(&self) {
        let mut state = self.state.lock().unwrap();
        state.hold_written = false;
        let written = std::mem::take(&mut state.written);
        written.into_iter().for_each(|(completer, places)| completer.complete(Ok(places)));
    }

    pub(super) fn fail(&self) {
        let error = StorageError::new(StorageErrorKind::Full, "no space left");
        self.state.lock().unwrap().failed = Some(error);
    }

    /// Fails the commits that are held back.
    pub(super) fn fail_held(&self) {
        let mut state = self.state.lock().unwrap();
        let error = state.failed.clone().expect("it has failed");
        let (written, durable) = (std::mem::take(&mut state.written), std::mem::take(&mut state.durable));
        written.into_iter().for_each(|(completer, _)| completer.complete(Err(error.clone())));
        durable.into_iter().for_each(|completer| completer.complete(Err(error.clone())));
    }

    pub(super) fn reads(&self) -> usize {
        self.state.lock().unwrap().reads
    }

    pub(super) fn mutations(&self) -> Vec<Mutation> {
        self.state.lock().unwrap().log.iter().flatten().map(|(mutation, _)| mutation.clone()).collect()
    }

    pub(super) fn batches(&self) -> Vec<Vec<Mutation>> {
        let state = self.state.lock().unwrap();
        state.log.iter().map(|batch| batch.iter().map(|(mutation, _)| mutation.clone()).collect()).collect()
    }

    pub(super) fn janitor(&self) -> Arc<dyn Janitor> {
        self.state.lock().unwrap().janitor.clone().expect("the engine has started")
    }

    pub(super) fn events(&self) -> Vec<(crate::storage::StoredEvent, Place)> {
        let state = self.state.lock().unwrap();
        let events = state.log.iter().flatten().filter_map(|(mutation, place)| match mutation {
            Mutation::Publish(event) | Mutation::Rewrite { event, .. } => Some((event.clone(), *place)),
            _ => None,
        });
        events.collect()
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn level(&self) -> Level {
        Level::Synced
    }

    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        let log = self.state.lock().unwrap().log.clone();
        let mut report = RecoveryReport::default();
        for (mutation, place) in log.into_iter().flatten() {
            recovery.replay(mutation, place)?;
            report.records += 1;
        }
        Ok(report)
    }

    fn start(&self, janitor: Arc<dyn Janitor>) {
        self.state.lock().unwrap().janitor = Some(janitor);
    }

    fn submit(&self, batch: Batch) -> Commit {
        let (written, written_stage) = stage();
        let (durable, durable_stage) = stage();
        let commit = Commit { written: written_stage, durable: durable_stage };
        let mut state = self.state.lock().unwrap();
        if let Some(error) = &state.failed {
            written.complete(Err(error.clone()));
            durable.complete(Err(error.clone()));
            return commit;
        }
        let mut places = Vec::new();
        let mut records = Vec::new();
        for mutation in batch.mutations {
            let is_event = matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. });
            state.places += u64::from(is_event);
            let place = Place(state.places);
            if is_event {
                places.push(place);
            }
            records.push((mutation, place));
        }
        state.log.push(records);
        if state.hold_written {
            state.written.push((written, places));
        } else {
            written.complete(Ok(places));
        }
        if state.hold_durable {
            state.durable.push(durable);
        } else {
            durable.complete(Ok(()));
        }
        commit
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        let mut state = self.state.lock().unwrap();
        state.reads += 1;
        let find = |key: &ReadKey| {
            state.log.iter().flatten().find_map(|(mutation, place)| match mutation {
                Mutation::Publish(event) | Mutation::Rewrite { event, .. }
                    if *place == key.place && event.key == key.key && event.topic == key.topic =>
                {
                    Some(event.payload.clone())
                }
                _ => None,
            })
        };
        Ok(keys.iter().map(find).collect())
    }

    fn stats(&self) -> StorageStats {
        StorageStats::default()
    }

    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
