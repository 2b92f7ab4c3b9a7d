//! The seam for sources, which feed the broker with events.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Handover, Outcome, Standing, Unavailable};
use crate::event::NewEvent;
use crate::name::TopicName;

/// The most events of one source that stand aside for full topics before it stops reading.
pub const MAX_ASIDE: usize = 1024;

/// The most bytes of such events.
pub const MAX_ASIDE_BYTES: usize = 8 << 20;

/// Publishes the events of an outside stream to a broker until it is told to stop.
///
/// # Contract
///
/// - **Cursor.** A source starts at the cursor that [`Publisher::standing`] returns, and hands each batch over together with the
///   cursor that covers it. Both are committed in one atomic batch, so the hand-off is exactly-once. A source keeps no cursor of
///   its own: a second copy could run ahead of the events or fall behind them.
/// - **Full topics.** An event whose topic is full stands aside, stored with the cursor, so that it stops neither the events
///   behind it nor the cursor (see [`Handover`]). The source offers it again until it is in. At most [`MAX_ASIDE`] events or
///   [`MAX_ASIDE_BYTES`] bytes of a source stand aside, and the batch that reached the limit; beyond that the source stops
///   reading.
/// - **Ids.** Where the source has cursors, an event's id is derived from its cursor, so that even a hand-off to a remote broker,
///   which may be repeated, is idempotent.
/// - **Back-pressure.** A source has a bounded number of batches published and unanswered, and stops reading at that bound.
/// - **Failure.** A source retries transient failures indefinitely, with backoff, and logs them. It returns an error only where an
///   operator has to act. A refused event is counted and logged, and does not stop the source.
#[async_trait]
pub trait Source: Send + 'static {
    /// The source's name in the configuration, which is the key of its cursor.
    fn name(&self) -> &str;

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// When it cannot continue until an operator acts. The text says what to do.
    async fn run(
        self: Box<Self>,
        publisher: Arc<dyn Publisher>,
        shutdown: CancellationToken,
    ) -> Result<(), SourceError>;
}

/// The reason that a source stopped, worded for an operator.
#[derive(Debug, thiserror::Error)]
#[error("source {source_name}: {reason}")]
pub struct SourceError {
    /// The source's name.
    pub source_name: String,
    /// What happened and what to do.
    pub reason: String,
    /// The cause.
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

/// The state of a source, as `stats` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// The source's name.
    pub name: String,
    /// `running`, `retrying`, `ended` (the feed has no more events) or `failed` (an operator has to act).
    pub state: &'static str,
    /// The failure that it retries or that ended it.
    pub error: Option<String>,
}

/// The failure that a source retries at present, if any.
pub type Trouble = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The states of all sources of a process, shared between those who run them and those who show them.
#[derive(Clone, Default)]
pub struct SourceStates(Arc<Mutex<Vec<Known>>>);

struct Known {
    name: String,
    trouble: Trouble,
    ended: Option<Result<(), String>>,
}

impl SourceStates {
    /// Adds a source that starts to run.
    pub fn started(&self, name: &str, trouble: Trouble) {
        self.lock().push(Known { name: name.to_owned(), trouble, ended: None });
    }

    /// Records how the source called `name` ended.
    pub fn ended(&self, name: &str, outcome: Result<(), String>) {
        if let Some(known) = self.lock().iter_mut().find(|known| known.name == name) {
            known.ended = Some(outcome);
        }
    }

    /// The states at present, in the order in which the sources started.
    #[must_use]
    pub fn list(&self) -> Vec<SourceStatus> {
        let status = |known: &Known| {
            let (state, error) = match &known.ended {
                Some(Ok(())) => ("ended", None),
                Some(Err(error)) => ("failed", Some(error.clone())),
                None => match (known.trouble)() {
                    Some(trouble) => ("retrying", Some(trouble)),
                    None => ("running", None),
                },
            };
            SourceStatus { name: known.name.clone(), state, error }
        };
        self.lock().iter().map(status).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SourceStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

/// The target of a source: the engine in this process, or a remote broker.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Publishes a batch that belongs to no source; completes when it is durable.
    ///
    /// # Errors
    /// When the batch could not be stored.
    async fn publish(&self, events: Vec<(TopicName, NewEvent)>) -> Result<Vec<Outcome>, Unavailable>;

    /// Hands over a source's events and advances its cursor with them; completes when both are durable.
    ///
    /// # Errors
    /// When the batch could not be stored, or may not have been. The source hands it over again later, with
    /// [`Handover::again`] set.
    async fn hand_over(&self, handover: Handover) -> Result<Vec<Outcome>, Unavailable>;

    /// The cursor last committed for `source`, and the events of it that stand aside.
    ///
    /// # Errors
    /// When it cannot be read at present.
    async fn standing(&self, source: &str) -> Result<Standing, Unavailable>;
}

/// The engine in this process as a [`Publisher`].
pub struct LocalPublisher(pub Arc<dyn Engine>);

#[async_trait]
impl Publisher for LocalPublisher {
    async fn publish(&self, events: Vec<(TopicName, NewEvent)>) -> Result<Vec<Outcome>, Unavailable> {
        self.0.publish(events, None).await
    }

    async fn hand_over(&self, handover: Handover) -> Result<Vec<Outcome>, Unavailable> {
        self.0.hand_over(handover).await
    }

    async fn standing(&self, source: &str) -> Result<Standing, Unavailable> {
        self.0.standing(source).await
    }
}
