//! The seam between sessions and queues: publishing, subscribing and settling, in batches.
//!
//! A session opens a [`Link`] for its client. It sends requests in batches, each request with a slot that the session chose, and
//! receives outcomes and deliveries:
//!
//! ```text
//!                 Request { slot, op }  ─────────►
//!   session  Link                                   Engine
//!                 ◄─────────  LinkEvent: outcomes by slot, deliveries
//! ```
//!
//! The session cannot tell whether the engine runs in this process ([`LocalEngine`](crate::local::LocalEngine)) or elsewhere.
//!
//! | to find | look in |
//! | --- | --- |
//! | the requests of a client | [`Request`], [`Op`] |
//! | the answers, and why a request is refused | [`Outcome`], [`Refusal`] |
//! | the other output of a link | [`LinkEvent`], [`Delivery`] |
//! | the limit on output that a client does not read | [`Gauge`] |
//! | the hand-over of a source's events, and the events that stand aside | [`Handover`] |
//! | the figures of `topics` and `stats` | [`TopicSummary`], [`Stats`] |

mod gauge;
mod handover;
mod link;
mod outcome;
mod refusal;
mod request;
mod stats;

use std::sync::Arc;

use async_trait::async_trait;

use crate::event::NewEvent;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::storage::{Level, StorageStats};

pub use gauge::{Gauge, OUTPUT_LIMIT};
pub use handover::{Handover, Offer, Standing};
pub use link::{Delivery, EngineGone, Link, LinkEvent, RequestSink};
pub use outcome::{Found, Outcome};
pub(crate) use refusal::DISK_FULL;
pub use refusal::Refusal;
pub use request::{Op, Request, Slot};
pub use stats::{Stats, SubscriptionStats, TopicStats, TopicSummary};

/// The queue semantics: publish, subscribe, acknowledge, nack, inspect.
///
/// # Contract
///
/// - **Order.** Requests of one link about one topic take effect in the order they were sent. Their effects leave the link in a
///   matching order: a subscription's outcome precedes its first delivery, and an acknowledgement's outcome precedes the
///   delivery it makes room for.
/// - **Outcomes.** Every request has exactly one outcome, except [`Op::Prefetch`] and [`Op::Resume`], which have none. A publish
///   with `confirm` is answered once the event is durable at [`Engine::level`], an acknowledgement once it would survive
///   a kill of the broker.
/// - **Deliveries.** An event is delivered once it is durable at that level, to each subscription that existed when it was
///   published, at least once until settled: highest priority first, and oldest first within a priority.
/// - **Credit.** A link has at most `prefetch` events in flight per subscription, and receives no deliveries while
///   [`OUTPUT_LIMIT`] or more of its bytes wait to be written (see [`Gauge`]). The engine never waits for a client.
/// - **Disconnection.** Dropping a link returns its events in flight to their queues and ends its nameless subscriptions.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Opens a link for a client. `client` names it in logs.
    fn connect(&self, client: String) -> Link;

    /// Publishes `events` in order, together with `cursor`, in one atomic batch; completes once the batch is durable at
    /// [`Engine::level`]. Outcomes are in the order of the events. A refused event affects neither the others nor the cursor:
    /// a caller whose cursor must not pass over an event that found its topic full uses [`Engine::hand_over`].
    ///
    /// # Errors
    /// When the engine cannot store. Whether any of the batch was stored is then unknown.
    async fn publish(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
    ) -> Result<Vec<Outcome>, Unavailable>;

    /// Takes a source's events, with the cursor that covers them, in one atomic batch; completes once the batch is durable at
    /// [`Engine::level`]. Each event is published or stands aside, as [`Handover`] says. Outcomes are in the order of the events.
    ///
    /// # Errors
    /// When the engine cannot store. Whether the batch was stored is then unknown; handing it over with [`Handover::again`] set
    /// does not store it twice.
    async fn hand_over(&self, _handover: Handover) -> Result<Vec<Outcome>, Unavailable> {
        Err(Unavailable(Arc::from("this engine takes no events of sources")))
    }

    /// The cursor last committed for `source`, and the events of it that stand aside.
    ///
    /// # Errors
    /// When the engine cannot determine it.
    async fn standing(&self, source: &str) -> Result<Standing, Unavailable> {
        Ok(Standing { cursor: self.cursor(source).await?, aside: Vec::new() })
    }

    /// The cursor last committed for `source`.
    ///
    /// # Errors
    /// When the engine cannot determine it.
    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable>;

    /// Replaces the policies of all topics, existing and future; completes once they apply everywhere.
    ///
    /// # Errors
    /// When the engine is closing, or accepts policies only at start-up.
    async fn set_policies(&self, _policies: Policies) -> Result<(), Unavailable> {
        Err(Unavailable(Arc::from("this engine accepts topic policies only at start-up")))
    }

    /// The level of durability that a confirmation promises.
    fn level(&self) -> Level;

    /// The longest delivery, in bytes without its line ending. Events whose delivery could be longer are refused. Events stored
    /// earlier under a higher limit raise the value.
    fn max_output_line_bytes(&self) -> usize;

    /// Whether the engine can store at the moment, with its storage's figures.
    fn health(&self) -> Health;

    /// Returns events in flight to their queues, completes pending commits and closes the storage. Later requests are
    /// refused.
    async fn close(&self);
}

/// The position up to which a source has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The source's name in the configuration.
    pub source: String,
    /// A `Last-Event-ID` or a resume token; opaque to the engine.
    pub value: String,
}

/// The state of an engine and the figures of its storage.
#[derive(Debug, Clone)]
pub struct Health {
    /// The reason that nothing can be stored; `None` while the storage is in service.
    pub unavailable: Option<Unavailable>,
    /// The storage's figures.
    pub storage: StorageStats,
}

/// The engine cannot store at the moment, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub Arc<str>);
