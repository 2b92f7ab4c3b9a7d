//! The seam for what feeds the broker.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::engine::{Cursor, Engine, Outcome, Unavailable};
use crate::event::NewEvent;
use crate::name::TopicName;

/// Produces events for a broker until it is told to stop.
///
/// # Contract
///
/// - **Cursor.** A source begins at the cursor that [`Publisher::cursor`] gives it and hands each batch over with the cursor that
///   covers it. Both are committed together, so the hand-off is exactly-once; it never keeps a cursor of its own.
/// - **Ids.** An event's id is derived from the cursor where the source has one, so that even a hand-off to a remote broker is
///   idempotent.
/// - **Back-pressure.** It has a bounded number of batches handed over and unanswered, and reads no further meanwhile.
/// - **Failure.** It retries what can pass by itself, for ever, with backoff, and says so in the log. It returns an error only where
///   a person has to do something. A refused event is counted and logged, and does not stop it.
#[async_trait]
pub trait Source: Send + 'static {
    /// Its name in the configuration: the key of its cursor.
    fn name(&self) -> &str;

    /// Runs until `shutdown`, or for ever.
    ///
    /// # Errors
    /// When it cannot go on without a person; the text says what to do.
    async fn run(
        self: Box<Self>,
        publisher: Arc<dyn Publisher>,
        shutdown: CancellationToken,
    ) -> Result<(), SourceError>;
}

/// Why a source stopped; a text for an operator, with its cause.
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

/// Where a source publishes to: the engine in this process, or a broker elsewhere.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Publishes a batch and moves the cursor with it; completes when both are safe.
    ///
    /// # Errors
    /// When the batch could not be stored: the source tries it again, later.
    async fn publish(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
    ) -> Result<Vec<Outcome>, Unavailable>;

    /// The cursor last committed for `source`.
    ///
    /// # Errors
    /// When it cannot be read at the moment.
    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable>;
}

/// The engine in this process as a [`Publisher`].
pub struct LocalPublisher(pub Arc<dyn Engine>);

#[async_trait]
impl Publisher for LocalPublisher {
    async fn publish(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
    ) -> Result<Vec<Outcome>, Unavailable> {
        self.0.publish(events, cursor).await
    }

    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable> {
        self.0.cursor(source).await
    }
}
