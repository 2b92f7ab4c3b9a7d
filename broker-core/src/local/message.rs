//! The messages that a shard receives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::joint::Joint;
use crate::engine::{Cursor, Gauge, LinkEvent, Outcome, Refusal, Request, Slot, TopicStats, TopicSummary, Unavailable};
#[cfg(doc)]
use crate::engine::{Handover, Offer};
use crate::event::{EventKey, NewEvent};
use crate::name::{SubscriptionName, TopicName};
use crate::policy::Policies;
use crate::queue::ClientId;
use crate::storage::{Place, StorageError, StoredEvent};

pub(super) enum ShardMessage {
    /// A client is about to send its first request to this shard.
    Connect { client: ClientId, name: Arc<str>, events: mpsc::Sender<Vec<LinkEvent>>, gauge: Arc<Gauge> },
    /// Requests of a client, in order.
    Requests { client: ClientId, requests: Vec<ShardRequest> },
    /// A client has disconnected.
    Disconnect { client: ClientId },
    /// Events from within the process.
    Publish { part: PublishPart, reply: PublishReply },
    /// Dead letters from another topic.
    Bury(Bury),
    /// Dead letters that return to this topic.
    Revive(Revive),
    /// The storage wants to move events.
    Rewrite { events: Vec<(StoredEvent, Place)>, done: RewriteReply },
    /// There are more topics than the limit allows: forget those of which nothing is left.
    ForgetTopics,
    /// New policies for all topics.
    Policies { policies: Policies, done: oneshot::Sender<()> },
    /// Return events in flight to their queues, complete all commits, and end.
    Close(oneshot::Sender<()>),
}

/// Dead letters for a topic of the receiving shard, to be stored in one batch with their settlement where they came from.
pub(super) struct Bury {
    /// The dead-letter topic.
    pub(super) topic: TopicName,
    pub(super) letters: Vec<BuriedLetter>,
    /// Receives a result for each letter once they are written; `Err`: there is no room for it.
    pub(super) done: oneshot::Sender<Vec<Result<(), Refusal>>>,
}

pub(super) struct BuriedLetter {
    pub(super) event: NewEvent,
    /// The topic, subscription and event that the letter settles; `None`: the subscription is nameless, so nothing is stored.
    pub(super) settles: Option<(TopicName, SubscriptionName, EventKey)>,
}

/// Dead letters that return to a topic of the receiving shard, to be stored in one batch with their removal from the dead-letter
/// topic.
pub(super) struct Revive {
    /// The topic they return to.
    pub(super) topic: TopicName,
    /// The dead-letter topic.
    pub(super) from: TopicName,
    pub(super) letters: Vec<RevivedLetter>,
    /// Receives for each letter, once they are written, whether it has returned.
    pub(super) done: oneshot::Sender<Vec<bool>>,
}

pub(super) struct RevivedLetter {
    pub(super) event: NewEvent,
    pub(super) subscription: SubscriptionName,
    /// The letter in the dead-letter topic.
    pub(super) letter: EventKey,
}

/// Receives the outcomes of a batch from within the process, once it is durable.
pub(super) type PublishReply = oneshot::Sender<Result<Vec<Outcome>, Unavailable>>;

/// Receives the result of a request to move events, once the new copies are durable.
pub(super) type RewriteReply = oneshot::Sender<Result<(), StorageError>>;

/// One shard's part of a batch from within the process.
#[derive(Default)]
pub(super) struct PublishPart {
    pub(super) events: Vec<(TopicName, NewEvent)>,
    /// For the events of a source, where each of them stands aside if its topic is full.
    pub(super) asides: Option<Asides>,
    pub(super) cursor: Option<Cursor>,
    /// The batch over several shards that this is a part of, and the number of the part.
    pub(super) joint: Option<(Arc<Joint>, usize)>,
}

/// The events of a source's part that stand aside, or may have to. See [`Handover`].
pub(super) struct Asides {
    pub(super) source: Arc<str>,
    /// For each event of the part.
    pub(super) events: Vec<Aside>,
}

/// Where an event of a source stands aside if its topic is full. See [`Offer`].
#[derive(Clone, Copy)]
pub(super) struct Aside {
    pub(super) number: u32,
    pub(super) order: u64,
    pub(super) aside: bool,
    pub(super) held: bool,
}

/// A request as a shard receives it.
#[derive(Debug)]
pub(super) enum ShardRequest {
    /// A request about one topic, or about the client itself.
    One(Request),
    /// A question to all shards, which the last one answers.
    Topics(Slot, Arc<Gather<TopicSummary>>),
    /// A question to all shards, which the last one answers.
    Stats(Slot, Arc<Gather<TopicStats>>),
}

/// The topics that a question is about.
#[derive(Debug)]
pub(super) enum Part {
    /// All of them.
    All,
    /// The first ones by name, after this one.
    After(Option<TopicName>),
}

/// Collects the parts of an answer from all shards.
#[derive(Debug)]
pub(super) struct Gather<T> {
    pub(super) of: Part,
    missing: AtomicUsize,
    parts: Mutex<Gathered<T>>,
}

/// The parts of an answer.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    /// Topics with their answers, in no order.
    pub(super) topics: Vec<(TopicName, T)>,
    /// The last topic up to which every shard has named all of its own; `None`: all were named.
    pub(super) complete_to: Option<TopicName>,
}

impl<T> Gather<T> {
    pub(super) fn new(shards: usize, of: Part) -> Self {
        let parts = Mutex::new(Gathered { topics: Vec::new(), complete_to: None });
        Self { of, missing: AtomicUsize::new(shards), parts }
    }

    /// Adds a shard's part, which ends with `cut` if there are more. Returns the whole to the last shard, in the order of names.
    pub(super) fn add(&self, part: Vec<(TopicName, T)>, cut: Option<TopicName>) -> Option<Gathered<T>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.topics.extend(part);
        parts.complete_to = match (parts.complete_to.take(), cut) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        if self.missing.fetch_sub(1, Ordering::SeqCst) != 1 {
            return None;
        }
        let mut all = Gathered { topics: std::mem::take(&mut parts.topics), complete_to: parts.complete_to.take() };
        drop(parts);
        if let Some(last) = &all.complete_to {
            all.topics.retain(|(topic, _)| topic <= last);
        }
        all.topics.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Some(all)
    }
}

/// The inbox of one shard. Weak, so that shards end with their engine although they know each other.
pub(super) type Peer = mpsc::WeakSender<ShardMessage>;

/// The inboxes of all shards.
#[derive(Clone)]
pub(super) struct Peers(Arc<[Peer]>);

impl Peers {
    pub(super) fn new(inboxes: &[mpsc::Sender<ShardMessage>]) -> Self {
        Self(inboxes.iter().map(mpsc::Sender::downgrade).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.iter()
    }

    /// The shard that owns `topic`.
    pub(super) fn owner_of(&self, topic: &TopicName) -> Peer {
        self.0[topic.shard(self.0.len())].clone()
    }
}

/// Sends `message` to `peer` and waits for `answer`. `None`: the storage has failed or the engine is closing, so that it is
/// unknown whether the message took effect.
pub(super) async fn ask<T>(peer: &Peer, message: ShardMessage, answer: oneshot::Receiver<T>) -> Option<T> {
    match peer.upgrade() {
        Some(peer) if peer.send(message).await.is_ok() => answer.await.ok(),
        _ => None,
    }
}
