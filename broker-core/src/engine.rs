//! The seam between sessions and queues: what an engine does for a client, in batches.
//!
//! A session opens a [`Link`]. Requests go in through it in batches, each with a slot that the session chose; outcomes and
//! deliveries come back. An engine that runs on another machine has the same seam as the local one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::event::{NewEvent, Payload};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::policy::Policies;
use crate::storage::{Level, StorageFigures};

/// The queue semantics: publish, subscribe, acknowledge, requeue, inspect.
///
/// # Contract
///
/// - **Order.** Requests of one link about one topic take effect in their order. What they cause comes out of the link in an
///   order that respects it: the outcome of a subscription before its first delivery, the outcome of an acknowledgement before
///   the delivery that it makes room for.
/// - **Outcomes.** Every request has exactly one outcome, save [`Op::Prefetch`] and [`Op::Resume`], which have none. That of a
///   publish with `confirm` comes when the event is as safe as [`Engine::level`] says, that of an acknowledgement when it would
///   survive a kill of the broker.
/// - **Deliveries.** An event is delivered once it is as safe as its confirmation promises, to each subscription that existed
///   when it was published, at least once until settled: highest priority first, oldest first within one.
/// - **Credit.** A link has at most `prefetch` events in flight for each subscription, and no deliveries are sent while more than
///   [`OUTPUT_LIMIT`] of its bytes wait to be written (see [`Gauge`]). The engine never waits for a client.
/// - **Disconnection.** Dropping a link gives back what is in flight on it and ends its nameless subscriptions.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Opens a link for a client. `client` is a name for logs.
    fn connect(&self, client: String) -> Link;

    /// Publishes `events` in order, and the cursor with them in one atomic batch; completes when they are as safe as
    /// [`Engine::level`] says. Outcomes are in the order of the events. One refused event does not touch the others. Whoever
    /// gives a cursor publishes what was refused with [`Refusal::Full`] again, with the same cursor, before going on.
    ///
    /// # Errors
    /// When the engine cannot store: nothing of the batch may be counted on.
    async fn publish(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
    ) -> Result<Vec<Outcome>, Unavailable>;

    /// The cursor last committed for `source`.
    ///
    /// # Errors
    /// When the engine cannot tell.
    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable>;

    /// Puts other rules in force for all topics, those that are there and those to come; completes when they are everywhere.
    ///
    /// # Errors
    /// When the engine is closing, or takes rules at its start only.
    async fn set_policies(&self, _policies: Policies) -> Result<(), Unavailable> {
        Err(Unavailable(Arc::from("this engine takes the rules of topics at its start only")))
    }

    /// What a confirmation promises.
    fn level(&self) -> Level;

    /// How the engine is doing.
    fn health(&self) -> Health;

    /// Gives back what is in flight, finishes what was begun, makes it safe and lets go. Later requests are refused.
    async fn close(&self);
}

/// How far a source has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The source's name in the configuration.
    pub source: String,
    /// Last-Event-ID, resume token; opaque.
    pub value: String,
}

/// Whether the engine can store, and the figures of its storage.
#[derive(Debug, Clone)]
pub struct Health {
    /// Why nothing is confirmed at the moment, if so.
    pub unavailable: Option<Unavailable>,
    /// The storage's figures.
    pub storage: StorageFigures,
}

/// The engine cannot store at the moment; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub Arc<str>);

/// A client's connection to an engine.
pub struct Link {
    /// Where requests go in.
    pub requests: Box<dyn RequestSink>,
    /// Where outcomes and deliveries come out, in the order in which they must be seen. What comes of one request comes in one
    /// piece: an acknowledgement's outcome with the delivery that it makes room for. Closed when the engine is.
    pub events: mpsc::Receiver<Vec<LinkEvent>>,
    /// Counts the delivered bytes that wait to be written to the client.
    pub gauge: Arc<Gauge>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("gauge", &self.gauge).finish_non_exhaustive()
    }
}

/// Takes a link's requests.
pub trait RequestSink: Send {
    /// Hands over `batch`, waiting while the engine has more than it can take. Cancelling it may lose part of the batch.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine has closed.
    fn send(&mut self, batch: Vec<Request>) -> Pin<Box<dyn Future<Output = Result<(), EngineGone>> + Send + '_>>;
}

/// The engine has closed: the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has closed")]
pub struct EngineGone;

/// Bytes of deliveries that may wait to be written on one connection before no more are sent to it.
pub const OUTPUT_LIMIT: usize = 256 * 1024;

/// The delivered bytes of a link that its client has not taken: what keeps a client that does not read from costing memory.
///
/// The engine adds the [`Delivery::cost`] of what it sends; the session takes that off when it has been written, and sends
/// [`Op::Resume`] if that says so.
#[derive(Debug, Default)]
pub struct Gauge {
    bytes: AtomicUsize,
    starved: AtomicBool,
}

impl Gauge {
    /// Whether more may be sent. If not, the link is marked as starved, and its session will send [`Op::Resume`].
    pub fn has_room(&self) -> bool {
        if self.bytes.load(Ordering::SeqCst) < OUTPUT_LIMIT {
            return true;
        }
        self.starved.store(true, Ordering::SeqCst);
        // The session may have written everything between the two; then it saw no mark, and nobody would ever resume.
        self.bytes.load(Ordering::SeqCst) < OUTPUT_LIMIT
    }

    /// Counts `bytes` that are sent.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Takes off `bytes` that were written. True if the engine waits for [`Op::Resume`].
    #[must_use]
    pub fn written(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        before - bytes < OUTPUT_LIMIT && self.starved.swap(false, Ordering::SeqCst)
    }
}

/// Chosen by the session, ascending; its outcome names it.
pub type Slot = u64;

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Names the request in its outcome.
    pub slot: Slot,
    /// What is asked.
    pub op: Op,
}

/// What can be asked of an engine.
#[derive(Debug)]
pub enum Op {
    /// Publishes an event. Outcome: [`Outcome::Published`], with `confirm` once it is safe, without once it is accepted.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The event.
        event: NewEvent,
        /// Whether the outcome waits until the event is safe.
        confirm: bool,
    },
    /// Asks whether the topic is one that events may be published to, and changes nothing. Outcome: [`Outcome::Known`].
    Check {
        /// The topic.
        topic: TopicName,
    },
    /// Subscribes this link. Outcome: [`Outcome::Subscribed`].
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// The durable subscription to attach to, made if it is new; `None`: one of the link's own.
        name: Option<SubscriptionName>,
        /// How many events may be in flight, at least 1.
        prefetch: u16,
    },
    /// Removes a subscription and all that waits in it: the named one, or the one that this link is attached to.
    /// Outcome: [`Outcome::Unsubscribed`], whether or not there was one.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// The subscription; `None`: this link's.
        name: Option<SubscriptionName>,
    },
    /// Lets go of the subscription that this link is attached to. Outcome: [`Outcome::Detached`].
    Detach {
        /// The topic.
        topic: TopicName,
    },
    /// Acknowledges events. Outcome: [`Outcome::Acknowledged`].
    Ack {
        /// The topic.
        topic: TopicName,
        /// The events' ids; several if there is more than one.
        ids: Vec<IdKey>,
    },
    /// Acknowledges all that is in flight on this link for the topic. Outcome: [`Outcome::AcknowledgedAll`].
    AckAll {
        /// The topic.
        topic: TopicName,
    },
    /// Gives an event back, to be delivered again after `delay_ms`. Outcome: [`Outcome::Settled`].
    Nack {
        /// The topic.
        topic: TopicName,
        /// The event's id.
        id: IdKey,
        /// Milliseconds; 0: at once.
        delay_ms: u64,
    },
    /// Gives an event in flight up: it goes to the dead-letter topic. Outcome: [`Outcome::Settled`], once it has gone.
    Terminate {
        /// The topic.
        topic: TopicName,
        /// The event's id.
        id: IdKey,
        /// What there is to say about it.
        note: Option<Box<str>>,
    },
    /// Looks at what waits. Outcome: [`Outcome::Peeked`].
    Peek {
        /// The topic.
        topic: TopicName,
        /// The durable subscription; `None`: the link's own, else the topic's only one.
        subscription: Option<SubscriptionName>,
        /// How many events at the most.
        most: usize,
    },
    /// Drops what waits. Outcome: [`Outcome::Purged`], once it has gone.
    Purge {
        /// The topic.
        topic: TopicName,
        /// As in [`Op::Peek`].
        subscription: Option<SubscriptionName>,
    },
    /// Moves dead letters back to the subscriptions that they came from. Outcome: [`Outcome::Redriven`].
    Redrive {
        /// The topic that they came from.
        topic: TopicName,
        /// How many at the most; `None`: all.
        most: Option<u64>,
    },
    /// Starts the time-out of an event in flight again. Outcome: [`Outcome::Settled`].
    Touch {
        /// The topic.
        topic: TopicName,
        /// The event's id.
        id: IdKey,
    },
    /// The prefetch of all this link's subscriptions from now on. No outcome.
    Prefetch(u16),
    /// The client has taken its output. No outcome.
    Resume,
    /// Outcome: [`Outcome::Topics`].
    Topics,
    /// Outcome: [`Outcome::Stats`]; `None`: all topics.
    Stats(Option<TopicName>),
}

impl Op {
    /// The topic that it is about, if it is about one.
    #[must_use]
    pub fn topic(&self) -> Option<&TopicName> {
        match self {
            Self::Publish { topic, .. }
            | Self::Check { topic }
            | Self::Subscribe { topic, .. }
            | Self::Unsubscribe { topic, .. }
            | Self::Detach { topic }
            | Self::Ack { topic, .. }
            | Self::AckAll { topic }
            | Self::Nack { topic, .. }
            | Self::Terminate { topic, .. }
            | Self::Peek { topic, .. }
            | Self::Purge { topic, .. }
            | Self::Redrive { topic, .. }
            | Self::Touch { topic, .. } => Some(topic),
            Self::Stats(topic) => topic.as_ref(),
            Self::Prefetch(_) | Self::Resume | Self::Topics => None,
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted, and with `confirm` safe.
    Published {
        /// Whether it replaced a waiting event in any subscription.
        replaced: bool,
    },
    /// Accepted and dropped at once: it was the least urgent, and no subscription had room for it.
    Dropped,
    /// There is such a topic, or there would be with its first event.
    Known,
    /// Subscribed, or already so subscribed.
    Subscribed,
    /// There is no such subscription now.
    Unsubscribed,
    /// This link is attached to no subscription of the topic now.
    Detached,
    /// One answer for each id, and what is next.
    Acknowledged {
        /// Whether each was acknowledged; false: nothing of that id is in flight here or waiting.
        found: Vec<bool>,
        /// Whether, after at least one that was in flight was acknowledged, nothing is in flight on this link for the
        /// subscription and nothing is deliverable now: `no available message`.
        idle: bool,
    },
    /// So many were acknowledged.
    AcknowledgedAll {
        /// How many.
        count: usize,
        /// As in [`Outcome::Acknowledged`].
        idle: bool,
    },
    /// The answer to `nack`, `term` and `touch`: whether the event was in flight here.
    Settled {
        /// Whether it was.
        found: bool,
    },
    /// Events that wait, in delivery order.
    Peeked(Vec<Delivery>),
    /// So many that waited were dropped.
    Purged(u64),
    /// So many dead letters are back where they came from.
    Redriven(u64),
    /// All topics, by name.
    Topics(Vec<TopicSummary>),
    /// The figures.
    Stats(Box<Stats>),
    /// The request was refused and nothing changed.
    Refused(Refusal),
}

/// Why a request was refused. The text completes `error: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An acknowledgement without a subscription.
    #[error("not a topic {0} subscriber")]
    NotSubscribed(TopicName),
    /// A second subscription to one topic on one link.
    #[error("already subscribed to topic {topic} as {}; unsub or detach first", subscribed_as(.name))]
    AlreadySubscribed {
        /// The topic.
        topic: TopicName,
        /// The subscription that the link has; `None`: its own.
        name: Option<SubscriptionName>,
    },
    /// The topic is not there and is not made by using it.
    #[error("unknown topic \"{0}\": it is not configured, and auto_create is off")]
    UnknownTopic(TopicName),
    /// `stats` of a topic that is not there.
    #[error("no such topic: \"{0}\"")]
    NoSuchTopic(TopicName),
    /// The id waits already, and the topic's policy is to refuse then. The session adds the id.
    #[error("duplicate id")]
    DuplicateId,
    /// A subscription's limit is reached.
    #[error("topic {topic} is full: {limit}")]
    Full {
        /// The topic.
        topic: TopicName,
        /// Which limit, in words.
        limit: String,
    },
    /// There is no such durable subscription.
    #[error("no such subscription: topic {topic} has none called \"{name}\"")]
    NoSuchSubscription {
        /// The topic.
        topic: TopicName,
        /// The name.
        name: SubscriptionName,
    },
    /// The request says no subscription, and it is not clear which is meant.
    #[error("usage: {usage}: {topics}")]
    WhichSubscription {
        /// The command's form.
        usage: &'static str,
        /// Which there are, in words.
        topics: String,
    },
    /// The name of the dead-letter topic would not be valid.
    #[error("topic {0} can have no dead-letter topic: its name would not be valid")]
    NoDeadLetter(TopicName),
    /// As many topics or subscriptions as are allowed.
    #[error("{0}")]
    TooMany(String),
    /// A broker elsewhere refused it for good, in its own words.
    #[error("{0}")]
    Elsewhere(String),
    /// The storage is out of service.
    #[error("storage is out of service: {0}")]
    Unavailable(Unavailable),
}

fn subscribed_as(name: &Option<SubscriptionName>) -> String {
    name.as_ref().map_or_else(|| "its own".to_owned(), |name| format!("\"{name}\""))
}

/// What comes out of a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// What came of requests.
    Outcomes(Vec<(Slot, Outcome)>),
    /// Events to be sent, in order.
    Deliveries(Vec<Delivery>),
    /// Somebody else removed the durable subscription that this link was attached to.
    Removed {
        /// The topic.
        topic: TopicName,
        /// The subscription.
        subscription: SubscriptionName,
    },
}

/// One attempt to hand an event to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What is sent.
    pub payload: Payload,
    /// The number of earlier deliveries.
    pub redelivered: u32,
}

impl Delivery {
    /// What it counts in a [`Gauge`], in bytes: the line, with what may be added to it.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.payload.len() + 64
    }
}

/// A line of `topics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicSummary {
    /// Its name.
    pub topic: String,
    /// How many subscriptions it has.
    pub subscriptions: usize,
    /// Events that wait, summed over the subscriptions.
    pub waiting: u64,
    /// Events in flight, summed over the subscriptions.
    pub in_flight: u64,
    /// Events published since the broker started.
    pub published: u64,
}

/// The answer to `stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The broker's version.
    pub version: &'static str,
    /// Milliseconds since the broker started.
    pub uptime_ms: u64,
    /// Open links.
    pub connections: usize,
    /// The topics, by name.
    pub topics: Vec<TopicStats>,
}

/// A topic's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicStats {
    /// Its name.
    pub topic: String,
    /// Events published since the broker started.
    pub published: u64,
    /// Its subscriptions: the durable ones by name, then those that belong to connections.
    pub subscriptions: Vec<SubscriptionStats>,
}

/// A subscription's figures; counters since the broker started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SubscriptionStats {
    /// `None` (null) if it belongs to its connection.
    pub name: Option<String>,
    /// Links attached to it.
    pub connections: usize,
    /// Events that wait to be delivered.
    pub waiting: u64,
    /// Events delivered and not settled.
    pub in_flight: u64,
    /// Events that wait for their delay.
    pub delayed: u64,
    /// Milliseconds since the oldest event that is not settled was published; 0 if there is none.
    pub oldest_ms: u64,
    /// Deliveries made.
    pub delivered: u64,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Deliveries that were not an event's first.
    pub redelivered: u64,
    /// Events whose time to live ran out.
    pub expired: u64,
    /// Events dropped because of a limit, or unreadable.
    pub dropped: u64,
    /// Events moved to the dead-letter topic.
    pub dead_lettered: u64,
}
