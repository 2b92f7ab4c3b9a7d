//! What a shard is sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::joint::Joint;
use crate::engine::{Cursor, Gauge, LinkEvent, Outcome, Request, Slot, TopicStats, TopicSummary, Unavailable};
use crate::event::NewEvent;
use crate::name::TopicName;
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
    /// The storage wants to move events.
    Rewrite { events: Vec<(StoredEvent, Place)>, done: oneshot::Sender<Result<(), StorageError>> },
    /// Give back what is in flight, make everything safe, end.
    Close(oneshot::Sender<()>),
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
