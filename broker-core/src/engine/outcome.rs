//! The answers to requests.

use super::{Delivery, Refusal, Stats, TopicSummary};
use crate::event::EventKey;
use crate::name::TopicName;

/// The answer to the acknowledgement of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The event is acknowledged.
    Settled,
    /// Nothing of this id has been delivered to the subscription and is in flight on this link or waits.
    NotHeld,
    /// As [`Found::NotHeld`], which was the answer before, and nothing of this id has been delivered to this link since. The protocol's
    /// clients of old repeat an acknowledgement until they get another answer than the first one.
    NoLongerHeld,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted, and durable if `confirm` was asked for.
    Published {
        /// Whether it replaced a waiting event of the same id in any subscription.
        replaced: bool,
    },
    /// Accepted and dropped immediately: it was the least urgent event and no subscription had room for it.
    Dropped,
    /// The topic exists, or its first event would create it.
    Known,
    /// The link is attached to the subscription, by this request or an earlier one.
    Subscribed,
    /// The subscription does not exist any more.
    Unsubscribed,
    /// This link is not attached to any subscription of the topic.
    Detached,
    /// The answer to an acknowledgement by id.
    Acknowledged {
        /// The answer for each id.
        found: Vec<Found>,
        /// Whether the consumer has run dry: at least one event in flight was acknowledged, none is left in flight on this
        /// link for the subscription, and none is deliverable now. The protocol's `no available message`.
        idle: bool,
    },
    /// The answer to an acknowledgement of everything in flight.
    AcknowledgedAll {
        /// The number of events acknowledged.
        count: usize,
        /// As in [`Outcome::Acknowledged`].
        idle: bool,
    },
    /// The answer to `nack`, `term` and `touch`.
    Settled {
        /// Whether the event was in flight on this link.
        found: bool,
    },
    /// Waiting events in delivery order.
    Peeked {
        /// The events.
        deliveries: Vec<Delivery>,
        /// The key to continue after, if there may be more.
        next: Option<EventKey>,
    },
    /// The number of waiting events dropped.
    Purged(u64),
    /// The number of dead letters moved back to where they came from.
    Redriven(u64),
    /// All topics, by name.
    Topics(Vec<TopicSummary>),
    /// The figures of the broker and its topics.
    Stats(Box<Stats>),
    /// Topics by name, the first that follow the one asked for.
    TopicsPage {
        /// The topics.
        topics: Vec<TopicSummary>,
        /// The last of them, if there are more.
        next: Option<TopicName>,
    },
    /// The figures of the broker and of the first topics that follow the one asked for.
    StatsPage {
        /// The figures.
        stats: Box<Stats>,
        /// The last topic of them, if there are more.
        next: Option<TopicName>,
    },
    /// The request was refused and nothing changed.
    Refused(Refusal),
}
