//! A storage in memory whose batches become written and durable a set number of turns after they are submitted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Completer, Janitor, Level, Mutation, Place, ReadKey, Recovery, RecoveryReport, Storage,
    StorageError, StorageStats, stage,
};

/// The outstanding stages, each with the turn at which it completes.
#[derive(Default)]
struct State {
    turn: usize,
    payloads: HashMap<Place, Payload>,
    written: VecDeque<(usize, Completer<Vec<Place>>, Vec<Place>)>,
    durable: VecDeque<(usize, Completer<()>)>,
}

pub(crate) struct InMemory {
    /// The turns until a batch is written, and until it is durable.
    lag: (usize, usize),
    state: Mutex<State>,
}

impl InMemory {
    pub(crate) fn new(lag: (usize, usize)) -> Self {
        Self { lag, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the next turn. Returns whether any stage is outstanding.
    pub(crate) fn turn(&self) -> bool {
        let mut state = self.state();
        let is_busy = !state.written.is_empty() || !state.durable.is_empty();
        state.turn += 1;
        state.arrive();
        is_busy
    }
}

impl State {
    fn arrive(&mut self) {
        let turn = self.turn;
        while self.written.front().is_some_and(|(at, ..)| *at <= turn) {
            let Some((_, completer, places)) = self.written.pop_front() else { return };
            completer.complete(Ok(places));
        }
        while self.durable.front().is_some_and(|(at, _)| *at <= turn) {
            let Some((_, completer)) = self.durable.pop_front() else { return };
            completer.complete(Ok(()));
        }
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
        let (durable, durable_stage) = stage();
        let mut state = self.state();
        let mut places = Vec::new();
        for mutation in batch.mutations {
            if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = mutation {
                let place = Place(state.payloads.len() as u64);
                state.payloads.insert(place, event.payload);
                places.push(place);
            }
        }
        let turn = state.turn;
        state.written.push_back((turn + self.lag.0, written, places));
        state.durable.push_back((turn + self.lag.1, durable));
        state.arrive();
        Commit { written: written_stage, durable: durable_stage }
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.payloads.get(&key.place).cloned()).collect())
    }

    fn stats(&self) -> StorageStats {
        StorageStats::default()
    }

    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
