//! What a shard is sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::joint::Joint;
use crate::engine::{Cursor, Gauge, LinkEvent, Outcome, Refusal, Request, Slot, TopicStats, TopicSummary, Unavailable};
use crate::event::{EventKey, NewEvent};
use crate::name::{SubscriptionName, TopicName};
use crate::policy::Policies;
use crate::queue::ClientId;
use crate::storage::{Place, StorageError, StoredEvent};

pub(super) enum ShardMessage {
    /// A client sends its first request to this shard.
    Connect { client: ClientId, name: Arc<str>, events: mpsc::Sender<Vec<LinkEvent>>, gauge: Arc<Gauge> },
    /// A client's requests, in order.
    Requests { client: ClientId, requests: Vec<ShardRequest> },
    /// A client has gone.
    Disconnect { client: ClientId },
    /// Events from within the broker's process.
    Publish { part: PublishPart, reply: PublishReply },
    /// Dead letters of another topic.
    Bury(Bury),
    /// Dead letters on their way back.
    Revive(Revive),
    /// The storage wants to move events.
    Rewrite { events: Vec<(StoredEvent, Place)>, done: oneshot::Sender<Result<(), StorageError>> },
    /// Other rules for topics.
    Policies { policies: Policies, done: oneshot::Sender<()> },
    /// Give back what is in flight, make everything safe, end.
    Close(oneshot::Sender<()>),
}

/// Dead letters for a topic of this shard, to be stored in one batch with their settlement where they came from.
pub(super) struct Bury {
    pub(super) topic: TopicName,
    pub(super) letters: Vec<BuriedLetter>,
    /// Gets an answer for each letter when they are written; `Err`: there is no room for it.
    pub(super) done: oneshot::Sender<Vec<Result<(), Refusal>>>,
}

pub(super) struct BuriedLetter {
    pub(super) event: NewEvent,
    /// The topic, subscription and event that it settles; `None`: a subscription that is not stored.
    pub(super) settles: Option<(TopicName, SubscriptionName, EventKey)>,
}

/// Dead letters that go back to a topic of this shard, to be stored in one batch with their end in the dead-letter topic.
pub(super) struct Revive {
    pub(super) topic: TopicName,
    /// The dead-letter topic.
    pub(super) from: TopicName,
    pub(super) letters: Vec<RevivedLetter>,
    /// Gets an answer for each letter when they are written: whether it is back.
    pub(super) done: oneshot::Sender<Vec<bool>>,
}

pub(super) struct RevivedLetter {
    pub(super) event: NewEvent,
    pub(super) subscription: SubscriptionName,
    /// The letter in the dead-letter topic.
    pub(super) letter: EventKey,
}

pub(super) type PublishReply = oneshot::Sender<Result<Vec<Outcome>, Unavailable>>;

/// What one shard gets of a batch from within the process.
#[derive(Default)]
pub(super) struct PublishPart {
    pub(super) events: Vec<(TopicName, NewEvent)>,
    pub(super) cursor: Option<Cursor>,
    /// The batch that this is one part of, and which.
    pub(super) joint: Option<(Arc<Joint>, usize)>,
}

#[derive(Debug)]
pub(super) enum ShardRequest {
    One(Request),
    /// A question to all shards: the last one answers.
    Topics(Slot, Arc<Gather<TopicSummary>>),
    Stats(Slot, Arc<Gather<TopicStats>>),
}

/// Collects what every shard says.
#[derive(Debug)]
pub(super) struct Gather<T> {
    missing: AtomicUsize,
    parts: Mutex<Vec<T>>,
}

impl<T> Gather<T> {
    pub(super) fn new(shards: usize) -> Self {
        Self { missing: AtomicUsize::new(shards), parts: Mutex::new(Vec::new()) }
    }

    /// Adds a shard's part. The last one gets all of them.
    pub(super) fn add(&self, part: Vec<T>) -> Option<Vec<T>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.extend(part);
        (self.missing.fetch_sub(1, Ordering::SeqCst) == 1).then(|| std::mem::take(&mut *parts))
    }
}
