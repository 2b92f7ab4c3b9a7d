//! The seam below the local engine: a storage makes its mutations durable and hands them back.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::event::{EventKey, Millis, Payload, Seq};
use crate::name::{SubscriptionName, TopicName};

pub mod check;
#[cfg(feature = "contract-tests")]
pub mod contract;

/// Stores batches of mutations atomically, hands everything back at start-up, and reads events by key.
///
/// # Contract
///
/// - **Order.** Batches take effect in the order of the calls to [`Storage::submit`], from whichever tasks these come. Each of
///   the two stages of their [`Commit`]s completes in that order as well.
/// - **Atomicity.** After a crash at any instant a batch is present whole or not at all, and none is present without every batch
///   submitted before it. The engine relies on both halves. A batch holds what must not be separated, such
///   as a source's events and the cursor that covers them. And later batches build on earlier ones: one that settles an event
///   without the one that published it would refer to nothing.
/// - **Durability.** `written` completes when the batch survives the end of this process (it is with the operating system);
///   `durable` when it has reached what [`Storage::level`] promises. At [`Level::Synced`] that includes the directory entries of
///   new files. After a crash, a batch whose stages had not
///   completed may be present or missing.
/// - **Group commit.** A storage takes all waiting batches, writes them together and syncs once.
/// - **Failure.** A failed write or sync takes the storage out of service: that batch and every later one fail. Nothing is
///   retried on the same handle, because after a failed sync the kernel may have dropped the dirty pages and report success
///   next time. Only opening the storage again tells what it holds.
/// - **Limits.** The engine has at most [`MAX_OUTSTANDING`] batches per shard submitted and not yet written. `submit` has room
///   for them, and blocks on nothing slower than handing them over.
/// - **Recovery.** [`Storage::recover`] is called once, before the first `submit`. Its memory does not grow with the backlog.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The storage's one name: its feature, its `kind` in the configuration, its metrics label. `"json-log"`.
    fn kind(&self) -> &'static str;

    /// The level that `durable` and a publisher's confirmation mean with this configuration.
    fn level(&self) -> Level;

    /// Hands back everything that was committed, in an order that [`Recovery::replay`] accepts. Blocking: it reads files.
    ///
    /// # Errors
    /// When the storage cannot be used at all, or `replay` refuses a record. Damage that costs only the damaged record is not an
    /// error: it is counted in the report.
    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError>;

    /// Starts the storage's background work, such as freeing space. Called once, after recovery.
    fn start(&self, janitor: Arc<dyn Janitor>);

    /// Queues `batch` and returns at once. The contract says when its stages complete.
    fn submit(&self, batch: Batch) -> Commit;

    /// Reads the payloads of written events, in the order of `keys`; `None` where a record is damaged or gone.
    ///
    /// # Errors
    /// When reading fails for a reason that says nothing about the records, such as an I/O error. A later retry can work.
    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError>;

    /// The storage's statistics.
    fn stats(&self) -> StorageStats;

    /// Whether events are to be accepted. False on a full disk where what is left is needed to consume what is stored: everything
    /// else goes on, and makes room. A hint, which may change at any time: a batch that was submitted is committed, or takes the
    /// storage out of service.
    fn has_room(&self) -> bool {
        true
    }

    /// Commits what was submitted, syncs, closes the files and releases the lock. Later calls fail.
    ///
    /// # Errors
    /// When the last sync failed: batches that were not durable before may be missing.
    async fn close(&self) -> Result<(), StorageError>;
}

/// The number of batches that one shard may have submitted and not yet written.
pub const MAX_OUTSTANDING: usize = 64;

/// How durable a confirmed event is. The confirmation names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// In this process's memory: a crash of the broker loses it.
    Memory,
    /// With the operating system, synced at an interval: a power failure loses what came since the last sync.
    Written,
    /// Synced to the disk: it survives a power failure.
    Synced,
}

impl Level {
    /// The word in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Written => "written",
            Self::Synced => "synced",
        }
    }
}

/// Mutations that are stored together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they take effect.
    pub mutations: Vec<Mutation>,
}

/// Where a storage keeps an event. Opaque to the engine, which remembers it and passes it back for reading.
/// A storage that finds events by topic and sequence alone uses `Place(0)` for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place(pub u64);

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its topic.
    pub topic: TopicName,
    /// Its priority and sequence. The sequence is unique within the topic.
    pub key: EventKey,
    /// When it was published.
    pub published_at: Millis,
    /// It expires at this time; `None`: never.
    pub expires_at: Option<Millis>,
    /// It is not delivered before this time; `None`: available at once.
    pub due_at: Option<Millis>,
    /// The encoded event, as it is delivered.
    pub payload: Payload,
}

/// A subscription's state of an event that has been rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The subscription that the event waits for.
    pub subscription: SubscriptionName,
    /// The deliveries made to it so far.
    pub deliveries: u32,
    /// The event is not delivered to it before this time.
    pub due_at: Option<Millis>,
    /// The time that the event was in flight there, in milliseconds. Its time to live does not count it.
    pub grace_ms: u64,
}

/// An event that waits to be delivered again: its delivery was nacked, timed out, or ended with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redelivery {
    /// The event.
    pub key: EventKey,
    /// The deliveries made so far. The next one carries this number as its `redelivered`.
    pub deliveries: u32,
    /// It is not delivered before this time; `None`: available at once.
    pub due_at: Option<Millis>,
    /// The time that it was in flight, in milliseconds. Its time to live does not count it.
    pub grace_ms: u64,
}

/// One change of the state that the broker has to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// The highest sequence that a topic has used. A storage derives it from the events and subscriptions it stores, and hands it
    /// back first in [`Storage::recover`], so that no sequence is used twice. An import submits it (see
    /// [`crate::transfer`]): the topic then exists and has used at least this sequence.
    ///
    /// The sequence 0 stands for a topic of which nothing is left: the engine has forgotten it, after its last subscription was
    /// removed and its last event released, and may use its sequences again. A storage then forgets its name and its highest
    /// sequence. Where it knows of a subscription, the mutation changes nothing.
    Topic {
        /// The topic.
        topic: TopicName,
        /// The highest sequence used.
        last_seq: Seq,
    },
    /// A durable subscription was created. It holds the events with a sequence above `since`.
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
        /// The topic's highest sequence at that time.
        since: Seq,
    },
    /// A durable subscription was removed, and with it its hold on all events.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
    },
    /// An event was published: every subscription of its topic with `since` below its sequence holds it.
    Publish(StoredEvent),
    /// An event was moved at the storage's own request (see [`Janitor`]). This copy replaces all earlier ones, and exactly
    /// `holders` hold it.
    Rewrite {
        /// The event, with its original sequence.
        event: StoredEvent,
        /// The subscriptions that it waits for.
        holders: Vec<Holder>,
    },
    /// A subscription is done with events: they were acknowledged, expired, dropped, or became dead letters.
    Settle {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
        /// The events.
        events: Vec<EventKey>,
    },
    /// Events wait to be delivered to a subscription again.
    Redeliver {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
        /// The events with their delivery counts and delays.
        events: Vec<Redelivery>,
    },
    /// Events were removed from the topic for all its subscriptions: replaced by id, or redriven dead letters.
    Forget {
        /// The topic.
        topic: TopicName,
        /// The events.
        events: Vec<EventKey>,
    },
    /// No subscription holds the event any longer, so its space can be reused. This follows from earlier mutations, so a log
    /// need not record it.
    Release {
        /// The topic.
        topic: TopicName,
        /// The event.
        key: EventKey,
        /// The place it was kept at.
        place: Place,
    },
    /// A source's position, committed in the same batch as the events that it covers.
    Cursor {
        /// The source's name in the configuration.
        source: String,
        /// Last-Event-ID, resume token; opaque.
        value: String,
    },
}

impl Mutation {
    /// Nothing is left of a topic: see [`Mutation::Topic`].
    #[must_use]
    pub fn forgotten(topic: TopicName) -> Self {
        Self::Topic { topic, last_seq: Seq(0) }
    }
}

/// The result of [`Storage::submit`]: two stages, each of which completes once.
#[derive(Debug)]
pub struct Commit {
    /// Completes when the batch survives the end of this process. Yields the places of its `Publish` and `Rewrite` mutations, in
    /// their order.
    pub written: Stage<Vec<Place>>,
    /// Completes when the batch has reached [`Storage::level`]. That is not before `written`, except at [`Level::Memory`], where
    /// it completes at once.
    pub durable: Stage<()>,
}

/// A stage of a [`Commit`]: a future that the storage completes. It fails if the storage drops its [`Completer`].
#[derive(Debug)]
pub struct Stage<T>(oneshot::Receiver<Result<T, StorageError>>);

/// The storage's end of a [`Stage`].
#[derive(Debug)]
pub struct Completer<T>(oneshot::Sender<Result<T, StorageError>>);

impl<T> Completer<T> {
    /// Completes the stage. The stage may have been dropped: not every caller waits for both.
    pub fn complete(self, result: Result<T, StorageError>) {
        let _dropped = self.0.send(result);
    }
}

/// Creates a stage and its completer.
#[must_use]
pub fn stage<T>() -> (Completer<T>, Stage<T>) {
    let (sender, receiver) = oneshot::channel();
    (Completer(sender), Stage(receiver))
}

impl<T> Future for Stage<T> {
    type Output = Result<T, StorageError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|done| done.unwrap_or_else(|_gone| Err(StorageError::closed())))
    }
}

/// Names an event for [`Storage::read`].
#[derive(Debug, Clone)]
pub struct ReadKey {
    /// The topic.
    pub topic: TopicName,
    /// The event.
    pub key: EventKey,
    /// The place that the storage reported for it.
    pub place: Place,
}

/// Receives what a storage hands back at start-up.
pub trait Recovery: Send {
    /// Takes one mutation. `place` is that of a `Publish` or `Rewrite`, and meaningless for the others.
    ///
    /// A log replays its records in order. A storage that keeps state instead hands back topics, then subscriptions, then each
    /// topic's events by sequence, then settlements and redeliveries, then cursors. Records about unknown topics, subscriptions
    /// and events are ignored.
    ///
    /// # Errors
    /// When the record exceeds a limit of the engine. Recovery then ends.
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError>;

    /// Takes the places of replayed events that turned out to be released, since the last call. A storage that counts live
    /// events calls it now and then, so that a long log of settled events takes no memory. What is left is submitted as
    /// [`Mutation::Release`] after recovery.
    fn take_released(&mut self) -> Vec<Place> {
        Vec::new()
    }
}

/// The result of [`Storage::recover`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Records handed back.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
    /// Damaged places: records that failed their checksum, with valid ones after them, and what a storage has put right. Each is logged by the
    /// storage with its place.
    pub damaged: u64,
}

/// The engine's help for a storage that frees space by moving live events.
pub trait Janitor: Send + Sync {
    /// Commits again, as [`Mutation::Rewrite`], those of `events` that are still held and still at the given place. Completes
    /// once the copies are durable; only then may the originals be deleted.
    fn rewrite(
        &self,
        events: Vec<(StoredEvent, Place)>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send + 'static>>;
}

/// A storage's statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageStats {
    /// The size of its files, in bytes.
    pub bytes: u64,
    /// Damaged records found since the start.
    pub damaged: u64,
    /// Syncs done since the start.
    pub syncs: u64,
    /// Batches committed since the start.
    pub batches: u64,
}

/// The kind of a storage's error: what its caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// Out of service: a write or sync failed. Stop confirming until the storage has been reopened.
    Failed,
    /// Out of service because no space is left.
    Full,
    /// Closed by [`Storage::close`].
    Closed,
    /// Another process holds the data directory.
    Locked,
    /// The data is of another kind or a newer format, or too damaged to be left in place.
    Unusable,
    /// A read failed. A retry can work.
    Read,
}

/// A storage's error: a kind for the caller to act on, and a text that tells an operator what happened where.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}")]
pub struct StorageError {
    kind: StorageErrorKind,
    context: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// Creates an error. The text names the path or key, in lower case and without a full stop.
    #[must_use]
    pub fn new(kind: StorageErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The error of a closed storage.
    #[must_use]
    pub fn closed() -> Self {
        Self::new(StorageErrorKind::Closed, "the storage is closed")
    }

    /// The kind, which the caller acts on.
    #[must_use]
    pub fn kind(&self) -> StorageErrorKind {
        self.kind
    }
}
