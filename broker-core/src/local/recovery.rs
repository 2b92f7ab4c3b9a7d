//! Rebuilds the queues from the records of a storage.
//!
//! ```text
//!   Storage::recover ──► Recoverer ──► a batch per shard ──► Worker thread of shard 0 ──► its topics
//!   (one thread, decodes)             (bounded)         ──► Worker thread of shard 1 ──► its topics
//! ```
//!
//! Decoding and rebuilding run in parallel, so recovering a long backlog takes the time of the slower of the two. Each shard gets
//! its records in the storage's order, because all records of a topic go to the same shard.
//!
//! A kill may lose a batch but never half of one, so the records are consistent: an event comes with the subscriptions that held it,
//! and no dead letter exists beside its original event. Recovery completes the work that the last run left unfinished:
//!
//! - Events that no subscription holds any more, after a removed subscription or a purge was cut short, are collected as *released*
//!   and handed to the storage before the shards start.
//! - Events in flight at the kill are simply waiting again. Where `max_deliveries` is set, their deliveries were recorded, up to 100 ms ago;
//!   elsewhere the count of the delivery under way is lost.
//! - Nothing remains parked, moving, or on an errand: these states are in memory only.

mod worker;

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::topics::TopicTable;
use crate::event::Millis;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::queue::Released;
use crate::storage::{Mutation, Place, Recovery, StorageError, StorageErrorKind};
use crate::transfer::{IMPORT_CURSOR, Progress};
use worker::Worker;

/// Records handed to a shard's thread at once.
const BATCH: usize = 512;

/// Bytes of payloads after which a batch is handed over early.
const BATCH_BYTES: usize = 1 << 18;

/// Batches that may wait for a shard's thread. When they do, decoding waits.
const WAITING: usize = 4;

/// The result of recovery.
pub(super) struct Recovered {
    /// The topics of each shard.
    pub(super) shards: Vec<TopicTable>,
    /// The cursor of each source.
    pub(super) cursors: HashMap<String, String>,
    /// The time at which the latest event was published.
    pub(super) latest: Millis,
    /// The longest delivery that an event can become, in bytes.
    pub(super) longest: usize,
    /// The releases that the storage has not taken during recovery, and the removal of empty topics.
    pub(super) released: Vec<Mutation>,
}

/// Events that turned out not to be needed, until the storage asks for them.
type AllReleased = Arc<Mutex<Vec<(TopicName, Released)>>>;

/// A shard's thread, and the records that have not been handed to it yet.
struct Shard {
    batch: Vec<(Mutation, Place)>,
    bytes: usize,
    sender: SyncSender<Vec<(Mutation, Place)>>,
    thread: JoinHandle<(TopicTable, Vec<TopicName>)>,
}

/// Divides the records of a storage over the shards' threads.
pub(super) struct Recoverer {
    shards: Vec<Shard>,
    cursors: HashMap<String, String>,
    latest: Millis,
    longest: usize,
    released: AllReleased,
    import: Option<Progress>,
}

fn ended(shard: usize) -> StorageError {
    StorageError::new(StorageErrorKind::Unusable, format!("the queues of shard {shard} could not be rebuilt"))
}

impl Recoverer {
    /// Starts a thread for each shard.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
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
        Ok(Self { shards, cursors: HashMap::new(), latest: Millis::default(), longest: 0, released, import: None })
    }

    /// Waits for the shards' threads and collects their topics.
    ///
    /// # Errors
    /// When a thread panicked, or the storage contains an unfinished import, which must not be served as if it were complete.
    pub(super) fn finish(mut self) -> Result<Recovered, StorageError> {
        if let Some(progress) = self.import.as_ref().filter(|progress| !progress.finished) {
            return Err(progress.refusal());
        }
        for at in 0..self.shards.len() {
            self.hand_over(at)?;
        }
        let mut shards = Vec::with_capacity(self.shards.len());
        let mut forgotten = Vec::new();
        for (at, shard) in self.shards.into_iter().enumerate() {
            drop(shard.sender);
            let (topics, names) = shard.thread.join().map_err(|_panic| ended(at))?;
            shards.push(topics);
            forgotten.extend(names);
        }
        let released = std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner));
        let release = |(topic, Released { key, place })| Mutation::Release { topic, key, place };
        // The events of a topic are released before the topic is forgotten.
        let released =
            released.into_iter().map(release).chain(forgotten.into_iter().map(Mutation::forgotten)).collect();
        let (cursors, latest, longest) = (self.cursors, self.latest, self.longest);
        Ok(Recovered { shards, cursors, latest, longest, released })
    }

    fn hand_over(&mut self, at: usize) -> Result<(), StorageError> {
        let shard = &mut self.shards[at];
        let batch = std::mem::replace(&mut shard.batch, Vec::with_capacity(BATCH));
        shard.bytes = 0;
        shard.sender.send(batch).map_err(|_it_panicked| ended(at))
    }
}

/// The topic of a record, if it concerns one.
fn topic_of(mutation: &Mutation) -> Option<&TopicName> {
    match mutation {
        Mutation::Topic { topic, .. }
        | Mutation::Subscribe { topic, .. }
        | Mutation::Unsubscribe { topic, .. }
        | Mutation::Settle { topic, .. }
        | Mutation::Redeliver { topic, .. }
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
            self.longest = self.longest.max(event.payload.longest_delivery(&event.topic));
        }
        shard.batch.push((mutation, place));
        if shard.batch.len() >= BATCH || shard.bytes >= BATCH_BYTES { self.hand_over(at) } else { Ok(()) }
    }

    fn take_released(&mut self) -> Vec<Place> {
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.drain(..).map(|(_, released)| released.place).collect()
    }
}
