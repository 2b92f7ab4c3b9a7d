//! A client's connection to an engine: requests in, outcomes and deliveries out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Gauge, Outcome, Request, Slot};
use crate::event::Payload;
use crate::name::{SubscriptionName, TopicName};

/// A client's connection to an engine.
pub struct Link {
    /// Takes the client's requests.
    pub requests: Box<dyn RequestSink>,
    /// Yields outcomes and deliveries in the order in which the client must see them. The effects of one request arrive in one
    /// piece: an acknowledgement's outcome together with the delivery it makes room for. Ends when the engine closes.
    pub events: mpsc::Receiver<Vec<LinkEvent>>,
    /// Counts the delivered bytes that wait to be written to the client, for both sides.
    pub gauge: Arc<Gauge>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("gauge", &self.gauge).finish_non_exhaustive()
    }
}

/// Takes a link's requests.
pub trait RequestSink: Send {
    /// Hands over `batch`, waiting while the engine's queue is full. Not cancel-safe: a dropped call may have sent part of it.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine has closed.
    fn send(&mut self, batch: Vec<Request>) -> Pin<Box<dyn Future<Output = Result<(), EngineGone>> + Send + '_>>;
}

/// The engine has closed; the session must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has closed")]
pub struct EngineGone;

/// One piece of a link's output.
#[derive(Debug)]
pub enum LinkEvent {
    /// The outcomes of requests.
    Outcomes(Vec<(Slot, Outcome)>),
    /// Events to send to the client, in order.
    Deliveries(Vec<Delivery>),
    /// Another client removed the durable subscription that this link was attached to.
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
    /// The event's encoding.
    pub payload: Payload,
    /// The number of earlier deliveries to this subscription.
    pub redelivered: u32,
}

impl Delivery {
    /// The bytes it counts in a [`Gauge`]: the encoding, plus an allowance for the rest of the line.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.payload.len() + 64
    }
}
