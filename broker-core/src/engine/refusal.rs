//! The reasons for which a request is refused.

use super::Unavailable;
use crate::name::{SubscriptionName, TopicName};

/// The reason a request was refused. Its text follows `error: ` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The link is not attached to a subscription of the topic.
    #[error("not a topic {0} subscriber")]
    NotSubscribed(TopicName),
    /// The link is already attached to another subscription of the topic.
    #[error("already subscribed to topic {topic} as {}; unsub or detach first", subscribed_as(.name))]
    AlreadySubscribed {
        /// The topic.
        topic: TopicName,
        /// The subscription the link is attached to; `None`: a nameless one.
        name: Option<SubscriptionName>,
    },
    /// The topic does not exist and may not be created by using it.
    #[error("unknown topic \"{0}\": it is not configured, and auto_create is off")]
    UnknownTopic(TopicName),
    /// The request concerns an existing topic, and there is no such topic.
    #[error("no such topic: \"{0}\"")]
    NoSuchTopic(TopicName),
    /// An event of this id is waiting and the topic's policy refuses duplicates. The session adds the id to the text.
    #[error("duplicate id")]
    DuplicateId,
    /// A subscription has reached its limit. This passes once its consumers have made room.
    #[error("topic {topic} is full: {limit}")]
    Full {
        /// The topic.
        topic: TopicName,
        /// The limit, in words.
        limit: String,
    },
    /// The event is larger by itself than the topic's limit, so it can never be accepted.
    #[error("topic {topic} is full: an event of {bytes} bytes never fits into {limit}")]
    NeverFits {
        /// The topic.
        topic: TopicName,
        /// The event's size.
        bytes: u64,
        /// The topic's limit in bytes.
        limit: u64,
    },
    /// A delivery of the event could exceed the longest line that is sent, so it can never be accepted.
    #[error(
        "event is too long for topic {topic}: its longest delivery would have {bytes} bytes, and max_output_line_bytes is {limit}"
    )]
    TooLong {
        /// The topic.
        topic: TopicName,
        /// The length of the longest delivery, in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The topic has no durable subscription of that name.
    #[error("no such subscription: topic {topic} has none called \"{name}\"")]
    NoSuchSubscription {
        /// The topic.
        topic: TopicName,
        /// The name.
        name: SubscriptionName,
    },
    /// The request names no subscription, and more than one or none could be meant.
    #[error("usage: {usage}: {topics}")]
    WhichSubscription {
        /// The command's syntax.
        usage: &'static str,
        /// The topic's subscriptions, in words.
        topics: String,
    },
    /// The topic's dead-letter topic would have an invalid name.
    #[error("topic {0} can have no dead-letter topic: its name would not be valid")]
    NoDeadLetter(TopicName),
    /// The limit on topics or subscriptions is reached.
    #[error("{0}")]
    TooMany(String),
    /// A remote broker refused it permanently, in that broker's words.
    #[error("{0}")]
    Elsewhere(String),
    /// The storage is out of service.
    #[error("storage is out of service: {0}")]
    Unavailable(Unavailable),
}

/// The reason for which no event is accepted while the storage [has no room](crate::storage::Storage::has_room).
pub(crate) const DISK_FULL: &str = "no space left on the disk; consuming makes room";

impl Refusal {
    /// The storage has no room. Like any full topic, this passes.
    pub(crate) fn disk_full(topic: &TopicName) -> Self {
        Self::Full { topic: topic.clone(), limit: DISK_FULL.to_owned() }
    }
}

fn subscribed_as(name: &Option<SubscriptionName>) -> String {
    name.as_ref().map_or_else(|| "its own".to_owned(), |name| format!("\"{name}\""))
}
