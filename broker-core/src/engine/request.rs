//! The requests of a client to an engine.

#[cfg(doc)]
use super::Outcome;
use crate::event::{EventKey, NewEvent};
use crate::name::{IdKey, SubscriptionName, TopicName};

/// Identifies a request in its outcome. Chosen by the session, in ascending order.
pub type Slot = u64;

/// One request of a client.
#[derive(Debug)]
pub struct Request {
    /// Identifies the request in its outcome.
    pub slot: Slot,
    /// The operation.
    pub op: Op,
}

/// The operations of an engine.
#[derive(Debug)]
pub enum Op {
    /// Publishes an event. Outcome: [`Outcome::Published`], with `confirm` once the event is durable, otherwise once it is accepted.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The event.
        event: NewEvent,
        /// Whether the outcome waits until the event is durable.
        confirm: bool,
    },
    /// Checks whether events may be published to the topic, without creating it. Outcome: [`Outcome::Known`].
    Check {
        /// The topic.
        topic: TopicName,
    },
    /// Subscribes this link. Outcome: [`Outcome::Subscribed`].
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// The durable subscription to attach to, created if it is new; `None`: a subscription that ends with the link.
        name: Option<SubscriptionName>,
        /// The most events in flight, at least 1.
        prefetch: u16,
    },
    /// Removes a subscription and everything that waits in it: the named one, or the one this link is attached to.
    /// Outcome: [`Outcome::Unsubscribed`], whether or not it existed.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// The subscription; `None`: this link's.
        name: Option<SubscriptionName>,
    },
    /// Detaches this link from its subscription; its events in flight return to the queue. Outcome: [`Outcome::Detached`].
    Detach {
        /// The topic.
        topic: TopicName,
    },
    /// Acknowledges events. Outcome: [`Outcome::Acknowledged`].
    Ack {
        /// The topic.
        topic: TopicName,
        /// The ids of the events.
        ids: Vec<IdKey>,
    },
    /// Acknowledges all events of the topic in flight on this link. Outcome: [`Outcome::AcknowledgedAll`].
    AckAll {
        /// The topic.
        topic: TopicName,
    },
    /// Returns an event in flight to the queue, to be delivered again after `delay_ms`. Outcome: [`Outcome::Settled`].
    Nack {
        /// The topic.
        topic: TopicName,
        /// The event's id.
        id: IdKey,
        /// Milliseconds; 0: immediately.
        delay_ms: u64,
    },
    /// Gives up an event in flight, which moves it to the dead-letter topic. Outcome: [`Outcome::Settled`], once it has moved.
    Terminate {
        /// The topic.
        topic: TopicName,
        /// The event's id.
        id: IdKey,
        /// The consumer's remark, stored with the dead letter.
        note: Option<Box<str>>,
    },
    /// Reads waiting events without delivering them, some at a time. Outcome: [`Outcome::Peeked`].
    Peek {
        /// The topic.
        topic: TopicName,
        /// The durable subscription; `None`: the one this link is attached to, else the topic's only one.
        subscription: Option<SubscriptionName>,
        /// The most events to return.
        most: usize,
        /// The last event of the answer before: reading continues after it.
        after: Option<EventKey>,
    },
    /// Drops all waiting events of a subscription. Outcome: [`Outcome::Purged`], once they are gone.
    Purge {
        /// The topic.
        topic: TopicName,
        /// As in [`Op::Peek`].
        subscription: Option<SubscriptionName>,
    },
    /// Moves dead letters back to the subscriptions they came from. Outcome: [`Outcome::Redriven`].
    Redrive {
        /// The topic they came from.
        topic: TopicName,
        /// The most letters to move; `None`: all.
        most: Option<u64>,
    },
    /// Restarts the acknowledgement time-out of an event in flight. Outcome: [`Outcome::Settled`].
    Touch {
        /// The topic.
        topic: TopicName,
        /// The event's id.
        id: IdKey,
    },
    /// Sets the prefetch of all this link's subscriptions. No outcome.
    Prefetch(u16),
    /// The client has read its output, so deliveries may continue (see [`Gauge`](super::Gauge)). No outcome.
    Resume,
    /// Lists all topics. Outcome: [`Outcome::Topics`].
    Topics,
    /// Lists some topics. Outcome: [`Outcome::TopicsPage`].
    TopicsAfter(Option<TopicName>),
    /// Reports the figures of some topics. Outcome: [`Outcome::StatsPage`].
    StatsAfter(Option<TopicName>),
    /// Reports the figures of one topic; `None`: of all topics. Outcome: [`Outcome::Stats`].
    Stats(Option<TopicName>),
}

impl Op {
    /// The topic it concerns, if it concerns exactly one.
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
            Self::Prefetch(_) | Self::Resume | Self::Topics | Self::TopicsAfter(_) | Self::StatsAfter(_) => None,
        }
    }
}
