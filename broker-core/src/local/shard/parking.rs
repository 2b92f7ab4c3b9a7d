//! Requests that wait until an event has become visible.
//!
//! An event becomes visible once it is durable, which takes a sync. Some requests must not overtake that:
//!
//! - **Settling** an event that the same client has just published. A client may send `pub t a` and `ack t a` without waiting for
//!   an answer; the acknowledgement has to find the event delivered, as if publishing took no time.
//! - **`peek` and `redrive`**, which show or move everything published before them. The [`Barrier`] is fixed when such a request
//!   arrives, so that events published later cannot delay it further.
//!
//! ```text
//!   client A:   pub t a │ ack t a │ topics
//!                 │        │          └ parked behind the acknowledgement, to keep A's order
//!                 │        └ parked: `a` is not visible yet
//!                 └ durable ──► `a` visible, delivered ──► unpark: ack, topics
//! ```
//!
//! Once one request of a client is parked, all its later requests to this shard wait behind it. Other clients are not held up. After
//! a failure of the storage nothing becomes visible any more, so the parked requests are released and get their refusals.

use std::collections::VecDeque;

use super::Shard;
use crate::engine::{Op, Request};
use crate::event::Seq;
use crate::local::message::ShardRequest;
use crate::local::topics::TopicAt;
use crate::queue::ClientId;
use crate::storage::Storage;
use crate::table::Table;

/// The latest event that must be visible before a request is handled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Barrier {
    at: TopicAt,
    seq: Seq,
}

pub(super) struct Parked {
    request: ShardRequest,
    barrier: Option<Barrier>,
}

/// The parked requests, in order for each client.
///
/// # Invariant
/// Each client in `waiting` has at least one request and is in `order`, in the order in which the clients began to wait. A
/// client that has disconnected may still be in `order`.
#[derive(Default)]
pub(super) struct Parking {
    waiting: Table<ClientId, VecDeque<Parked>>,
    order: Vec<ClientId>,
}

impl Parking {
    fn has(&self, client: ClientId) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(&client)
    }

    fn park(&mut self, client: ClientId, parked: Parked) {
        let requests = self.waiting.entry(client).or_insert_with(|| {
            self.order.push(client);
            VecDeque::new()
        });
        requests.push_back(parked);
    }

    /// Drops the requests of a client that has disconnected.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.waiting.remove(&client);
    }

    /// Takes all requests out, to be handled or parked again.
    fn take(&mut self) -> Vec<(ClientId, VecDeque<Parked>)> {
        let order = std::mem::take(&mut self.order);
        order.into_iter().filter_map(|client| Some((client, self.waiting.remove(&client)?))).collect()
    }
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Handles a request, or parks it until it may be handled.
    pub(super) fn accept(&mut self, client: ClientId, request: ShardRequest) {
        let barrier = self.barrier(&request);
        self.handle_or_park(client, Parked { request, barrier });
    }

    fn handle_or_park(&mut self, client: ClientId, parked: Parked) {
        if !self.clients.contains(client) {
            return;
        }
        if self.parking.has(client) || self.must_wait(client, &parked) {
            self.parking.park(client, parked);
        } else {
            self.request(client, parked.request);
        }
    }

    /// Handles the parked requests as far as possible.
    pub(super) fn unpark(&mut self) {
        for (client, requests) in self.parking.take() {
            for parked in requests {
                self.handle_or_park(client, parked);
            }
        }
    }

    /// The barrier of a request, for those that must see everything published before them.
    fn barrier(&self, request: &ShardRequest) -> Option<Barrier> {
        let ShardRequest::One(Request { op, .. }) = request else { return None };
        let at = match op {
            Op::Peek { topic, .. } => self.queues.topics.find(topic)?,
            Op::Redrive { topic, .. } => self.queues.topics.find(&self.queues.dead_letter_of(topic)?)?,
            _ => return None,
        };
        let seq = self.queues.topics.get(at)?.last_invisible()?;
        Some(Barrier { at, seq })
    }

    fn must_wait(&self, client: ClientId, parked: &Parked) -> bool {
        // After a failure nothing becomes visible any more, and the request is refused.
        self.shared.failure().is_none()
            && (parked.barrier.is_some_and(|Barrier { at, seq }| self.is_invisible(at, seq))
                || self.settles_before_delivery(client, &parked.request))
    }

    /// Whether a request settles events of a topic to which its own client has published an event that is not visible yet.
    fn settles_before_delivery(&self, client: ClientId, request: &ShardRequest) -> bool {
        let ShardRequest::One(Request { op, .. }) = request else { return false };
        let (Op::Ack { topic, .. }
        | Op::AckAll { topic }
        | Op::Nack { topic, .. }
        | Op::Terminate { topic, .. }
        | Op::Touch { topic, .. }) = op
        else {
            return false;
        };
        let attachment = self.attachment(client, topic);
        attachment.is_some_and(|attachment| self.is_invisible(attachment.at, attachment.published))
    }

    fn is_invisible(&self, at: TopicAt, seq: Seq) -> bool {
        self.queues.topics.get(at).is_some_and(|topic| topic.is_invisible(seq))
    }
}
