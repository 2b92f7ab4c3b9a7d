//! Rebuilds the queues from what a storage hands back.
//!
//! The storage's thread decodes; a thread for each shard rebuilds that shard's queues meanwhile. A long backlog is there again in
//! the time of the slower of the two.

mod worker;

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::event::Millis;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::queue::{Released, Topic};
use crate::storage::{Mutation, Place, Recovery, StorageError, StorageErrorKind};
use crate::transfer::{IMPORT_CURSOR, Progress};
use worker::Worker;

/// Mutations handed to a shard's thread together, and the bytes of payloads after which there are no more.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 18;

/// Batches that wait for a shard's thread.
const WAITING: usize = 4;

/// What came of recovery: each shard's topics, and the cursors.
pub(super) struct Recovered {
    pub(super) shards: Vec<Vec<Topic>>,
    pub(super) cursors: HashMap<String, String>,
    /// When the latest event was published.
    pub(super) latest: Millis,
    /// What the storage has to be told that it can free.
    pub(super) released: Vec<Mutation>,
}

/// Events that turned out not to be needed, until the storage asks for them.
type AllReleased = Arc<Mutex<Vec<(TopicName, Released)>>>;

/// A shard's thread, and what has not been handed to it yet.
struct Shard {
    batch: Vec<(Mutation, Place)>,
    bytes: usize,
    sender: SyncSender<Vec<(Mutation, Place)>>,
    thread: JoinHandle<Vec<Topic>>,
}

pub(super) struct Recoverer {
    shards: Vec<Shard>,
    cursors: HashMap<String, String>,
    latest: Millis,
    released: AllReleased,
    import: Option<Progress>,
}

fn ended(shard: usize) -> StorageError {
    StorageError::new(StorageErrorKind::Unusable, format!("the queues of shard {shard} could not be rebuilt"))
}

impl Recoverer {
    /// # Errors
    /// When the operating system has no thread for it.
    pub(super) fn new(shards: usize, policies: &Policies, budget: usize) -> Result<Self, StorageError> {
        let released = AllReleased::default();
        let start = |shard: usize| {
            let worker = Worker::new(policies.clone(), budget, Arc::clone(&released));
            let (sender, inbox) = sync_channel(WAITING);
            let thread =
                std::thread::Builder::new().name(format!("recovery-{shard}")).spawn(move || worker.run(&inbox));
            let thread = thread.map_err(|error| ended(shard).with_source(error))?;
            Ok(Shard { batch: Vec::with_capacity(BATCH), bytes: 0, sender, thread })
        };
        let shards = (0..shards).map(start).collect::<Result<_, StorageError>>()?;
        Ok(Self { shards, cursors: HashMap::new(), latest: Millis::default(), released, import: None })
    }

    /// # Errors
    /// When a shard's thread did not come to its end, or when this is only the beginning of an import: served as it is, it would
    /// pass for the whole.
    pub(super) fn finish(mut self) -> Result<Recovered, StorageError> {
        if let Some(progress) = self.import.as_ref().filter(|progress| !progress.finished) {
            return Err(progress.refusal());
        }
        for at in 0..self.shards.len() {
            self.hand_over(at)?;
        }
        let mut shards = Vec::with_capacity(self.shards.len());
        for (at, shard) in self.shards.into_iter().enumerate() {
            drop(shard.sender);
            shards.push(shard.thread.join().map_err(|_panic| ended(at))?);
        }
        let released = std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner));
        let release = |(topic, Released { key, place })| Mutation::Release { topic, key, place };
        let (cursors, latest) = (self.cursors, self.latest);
        Ok(Recovered { shards, cursors, latest, released: released.into_iter().map(release).collect() })
    }

    fn hand_over(&mut self, at: usize) -> Result<(), StorageError> {
        let shard = &mut self.shards[at];
        let batch = std::mem::replace(&mut shard.batch, Vec::with_capacity(BATCH));
        shard.bytes = 0;
        shard.sender.send(batch).map_err(|_it_panicked| ended(at))
    }
}

/// The topic that a mutation is about.
fn topic_of(mutation: &Mutation) -> Option<&TopicName> {
    match mutation {
        Mutation::Topic { topic, .. }
        | Mutation::Subscribe { topic, .. }
        | Mutation::Unsubscribe { topic, .. }
        | Mutation::Settle { topic, .. }
        | Mutation::Requeue { topic, .. }
        | Mutation::Forget { topic, .. }
        | Mutation::Release { topic, .. } => Some(topic),
        Mutation::Publish(event) | Mutation::Rewrite { event, .. } => Some(&event.topic),
        Mutation::Cursor { .. } => None,
    }
}

impl Recovery for Recoverer {
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError> {
        let Some(topic) = topic_of(&mutation) else {
            match mutation {
                Mutation::Cursor { source, value } if source == IMPORT_CURSOR => {
                    self.import = Some(Progress::parse(&value));
                }
                Mutation::Cursor { source, value } => {
                    self.cursors.insert(source, value);
                }
                _ => {}
            }
            return Ok(());
        };
        let at = topic.shard(self.shards.len());
        let shard = &mut self.shards[at];
        if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = &mutation {
            shard.bytes += event.payload.len();
            self.latest = self.latest.max(event.published_at);
        }
        shard.batch.push((mutation, place));
        if shard.batch.len() >= BATCH || shard.bytes >= BATCH_BYTES { self.hand_over(at) } else { Ok(()) }
    }

    fn take_released(&mut self) -> Vec<Place> {
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.drain(..).map(|(_, released)| released.place).collect()
    }
}
