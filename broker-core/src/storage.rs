//! The seam below the local engine: what makes its mutations durable and hands them back.

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

/// Makes batches of mutations durable, all or nothing; hands everything back at start-up; reads events by key.
///
/// # Contract
///
/// - **Order.** Batches take effect in the order of the calls to [`Storage::submit`], whichever task makes them. Both stages
///   of their [`Commit`]s complete in that order as well.
/// - **Atomicity.** After a crash at any instant a batch is there whole or not at all, and none is there without all that were
///   submitted before it.
/// - **Durability.** `written` completes when the batch survives the end of this process (it is with the operating system);
///   `safe` when it has reached what [`Storage::level`] promises. At [`Level::Synced`] that includes the directory entries of
///   new files. A batch whose stages have not completed may be there after a crash or not.
/// - **Group commit.** A storage takes all batches that are waiting, writes them together and syncs once.
/// - **Failure.** A failed write or sync takes the storage out of service: that batch and every later one fail, nothing is
///   retried on the same handle, and what it holds is found out by opening it again.
/// - **Limits.** The engine has at most [`MAX_OUTSTANDING`] batches of each shard submitted and not yet written, so `submit`
///   has room for them and does not block on anything slower than a hand-over.
/// - **Recovery.** [`Storage::recover`] is called once, before the first `submit`. It never needs the whole backlog in memory.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The storage's one name: its feature, its `kind` in the configuration, its label in figures. `"json-log"`.
    fn kind(&self) -> &'static str;

    /// What a confirmation promises with this storage's configuration.
    fn level(&self) -> Level;

    /// Hands back everything that was committed, in an order that [`Recovery::replay`] allows. Blocking: it reads files.
    ///
    /// # Errors
    /// When the storage cannot be used at all, or `replay` refuses a record. Damage that costs only itself is not an error: it
    /// is in the report.
    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError>;

    /// Begins whatever the storage does on its own, such as freeing space; called once, after recovery.
    fn start(&self, janitor: Arc<dyn Janitor>);

    /// Queues `batch` and returns at once; see the contract for when its stages complete.
    fn submit(&self, batch: Batch) -> Commit;

    /// Reads the payloads of events that were written, in the order of `keys`; `None` where a record is damaged or gone.
    ///
    /// # Errors
    /// When reading failed in a way that says nothing about the records (an I/O error): a later retry can work.
    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError>;

    /// What it holds and what went wrong with it, as figures.
    fn figures(&self) -> StorageFigures;

    /// Finishes what was submitted, syncs, and lets go of files and locks. Later calls fail.
    ///
    /// # Errors
    /// When the last sync failed: what was not safe before may not be there.
    async fn close(&self) -> Result<(), StorageError>;
}

/// The most batches that one shard may have submitted and not yet written.
pub const MAX_OUTSTANDING: usize = 64;

/// What a confirmation promises; named in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// In this process's memory: a crash of the broker loses it.
    Memory,
    /// With the operating system, synced soon: a power failure within the interval loses it.
    Written,
    /// On the disk: it survives a power failure.
    Synced,
}

impl Level {
    /// The word that the protocol uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Written => "written",
            Self::Synced => "synced",
        }
    }
}

/// Mutations that become durable together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they happened.
    pub mutations: Vec<Mutation>,
}

/// Where a storage keeps an event: opaque to the engine, which remembers it and gives it back for reading.
/// A storage that finds events by topic and sequence alone may use `Place(0)` for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place(pub u64);

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its topic.
    pub topic: TopicName,
    /// Priority and sequence; unique within the topic.
    pub key: EventKey,
    /// When it was published.
    pub published_at: Millis,
    /// Not delivered at or after this time; `None`: it does not expire.
    pub expires_at: Option<Millis>,
    /// Not delivered before this time; `None`: at once.
    pub due_at: Option<Millis>,
    /// The encoding that is delivered.
    pub payload: Payload,
}

/// A subscription's hold on an event that has been moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The subscription for which the event still waits.
    pub subscription: SubscriptionName,
    /// How often it was delivered there.
    pub deliveries: u32,
    /// Not delivered there before this time.
    pub due_at: Option<Millis>,
    /// Milliseconds that it was in flight there, which its time to live does not count.
    pub grace_ms: u64,
}

/// An event that came back to a subscription's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requeued {
    /// The event.
    pub key: EventKey,
    /// How often it has been delivered.
    pub deliveries: u32,
    /// Not delivered before this time.
    pub due_at: Option<Millis>,
    /// Milliseconds that it was in flight, which its time to live does not count.
    pub grace_ms: u64,
}

/// One change of what the broker must remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// A topic's latest sequence. Storages keep it from the events and subscriptions that they see, and hand it back first in
    /// [`Storage::recover`], so that sequences are not used twice. Only an import submits it (see [`crate::transfer`]): then the
    /// topic is there, and has used at least that one.
    Topic {
        /// The topic.
        topic: TopicName,
        /// The highest sequence that it has used.
        last_seq: Seq,
    },
    /// A durable subscription was made. It holds the events with a sequence above `since`.
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
        /// The topic's latest sequence at the time.
        since: Seq,
    },
    /// A durable subscription and its hold on all events is gone.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
    },
    /// An event was published: every subscription of its topic with `since` below its sequence holds it.
    Publish(StoredEvent),
    /// An event was moved on the storage's own request (see [`Janitor`]): this copy stands for all earlier ones, and exactly
    /// `holders` hold it.
    Rewrite {
        /// The event, with the sequence that it always had.
        event: StoredEvent,
        /// The subscriptions for which it waits.
        holders: Vec<Holder>,
    },
    /// A subscription is done with events: acknowledged, expired, dropped, or moved to the dead letters.
    Settle {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
        /// The events.
        events: Vec<EventKey>,
    },
    /// Events came back to a subscription's queue, with what is to be remembered of them.
    Requeue {
        /// The topic.
        topic: TopicName,
        /// The subscription's name.
        subscription: SubscriptionName,
        /// The events and their counts.
        events: Vec<Requeued>,
    },
    /// Events were taken out of the topic for all its subscriptions: replaced by id, or dead letters that went back.
    Forget {
        /// The topic.
        topic: TopicName,
        /// The events.
        events: Vec<EventKey>,
    },
    /// No subscription needs the event any more, by what was submitted so far: its space can be used again. It follows from
    /// the other mutations, so a log needs no record of it.
    Release {
        /// The topic.
        topic: TopicName,
        /// The event.
        key: EventKey,
        /// Where it was kept.
        place: Place,
    },
    /// How far a source has been read: committed in the same batch as the events that it covers.
    Cursor {
        /// The source's name in the configuration.
        source: String,
        /// Last-Event-ID, resume token; opaque.
        value: String,
    },
}

/// What [`Storage::submit`] returns: two stages, each completing once.
#[derive(Debug)]
pub struct Commit {
    /// Completes when the batch survives the end of this process, with the places of its `Publish` and `Rewrite` mutations in
    /// their order.
    pub written: Stage<Vec<Place>>,
    /// Completes when the batch is as safe as [`Storage::level`] says: not before `written`, save at [`Level::Memory`], where it
    /// completes at once.
    pub safe: Stage<()>,
}

/// A stage of a [`Commit`]: a future that a storage completes. A storage that goes away without completing it fails it.
#[derive(Debug)]
pub struct Stage<T>(oneshot::Receiver<Result<T, StorageError>>);

/// The storage's end of a [`Stage`].
#[derive(Debug)]
pub struct Completer<T>(oneshot::Sender<Result<T, StorageError>>);

impl<T> Completer<T> {
    /// Completes the stage; a stage that nobody awaits any more is fine.
    pub fn complete(self, result: Result<T, StorageError>) {
        let _nobody_waits = self.0.send(result);
    }
}

/// Makes a stage and its completer.
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
    /// Where the storage said that it keeps it.
    pub place: Place,
}

/// Takes what a storage hands back at start-up.
pub trait Recovery: Send {
    /// Takes one mutation; `place` belongs to `Publish` and `Rewrite`.
    ///
    /// A log replays its records in their order. A storage that keeps state instead of a log hands it back as: topics, then
    /// subscriptions, then each topic's events in the order of their sequence, then what was settled and requeued, then
    /// cursors. Records about what is not there (any more) are ignored.
    ///
    /// # Errors
    /// When the record contradicts a limit that the engine cannot go beyond; recovery ends.
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError>;

    /// The places of replayed events that turned out not to be needed, since the last call. A storage that counts what is live
    /// asks now and then, so that a long log of settled events is no burden; what is never asked for is submitted as
    /// [`Mutation::Release`] after recovery.
    fn take_released(&mut self) -> Vec<Place> {
        Vec::new()
    }
}

/// What [`Storage::recover`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Records handed back.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
    /// Records that did not check, with valid ones after them; left where they are.
    pub damaged: u64,
}

/// The engine's help for a storage that frees space by moving what is still needed.
pub trait Janitor: Send + Sync {
    /// Commits again (as [`Mutation::Rewrite`]) those of `events` that still wait and are still at the given place.
    /// Completes once all of these are safe, after which the old copies are not needed.
    fn rewrite(
        &self,
        events: Vec<(StoredEvent, Place)>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send + 'static>>;
}

/// What a storage holds and what went wrong with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageFigures {
    /// Bytes that its files take.
    pub bytes: u64,
    /// Damaged records found since the start.
    pub damaged: u64,
    /// Syncs done since the start.
    pub syncs: u64,
    /// Batches committed since the start.
    pub batches: u64,
}

/// What the caller of a storage should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// Out of service: a write or a sync failed. Stop confirming until it has been opened again.
    Failed,
    /// No space left, and therefore out of service.
    Full,
    /// Closed in an orderly way.
    Closed,
    /// Somebody else has the data directory.
    Locked,
    /// The data is of another kind or a newer format, or damaged beyond what can be left in place.
    Unusable,
    /// A read failed; trying again can work.
    Read,
}

/// An error of a storage: what to do about it, and for an operator what happened where.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{context}")]
pub struct StorageError {
    kind: StorageErrorKind,
    context: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// An error with a text that names path or key, in lower case and without a full stop.
    #[must_use]
    pub fn new(kind: StorageErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The storage was closed.
    #[must_use]
    pub fn closed() -> Self {
        Self::new(StorageErrorKind::Closed, "the storage is closed")
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> StorageErrorKind {
        self.kind
    }
}
