//! The figures reported by `topics` and `stats`.

use serde::Serialize;

use crate::source::SourceStatus;

/// One line of `topics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicSummary {
    /// Its name.
    pub topic: String,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// Events waiting, summed over the subscriptions.
    pub waiting: u64,
    /// Events in flight, summed over the subscriptions.
    pub in_flight: u64,
    /// Events published since the broker started.
    pub published: u64,
}

/// The answer to `stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The broker's version.
    pub version: &'static str,
    /// Milliseconds since the broker started.
    pub uptime_ms: u64,
    /// Open links.
    pub connections: usize,
    /// The sources of this process; `None`, and not written, where one topic was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceStatus>>,
    /// The topics, ordered by name. Last, since a long answer is written in parts.
    pub topics: Vec<TopicStats>,
}

/// The figures of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicStats {
    /// Its name.
    pub topic: String,
    /// Events published since the broker started.
    pub published: u64,
    /// Its subscriptions: the durable ones ordered by name, then the nameless ones.
    pub subscriptions: Vec<SubscriptionStats>,
}

/// The figures of a subscription. Counters start at zero when the broker starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SubscriptionStats {
    /// `None` (`null`) for a nameless subscription, which ends with its connection.
    pub name: Option<String>,
    /// Links attached to it.
    pub connections: usize,
    /// Events waiting to be delivered.
    pub waiting: u64,
    /// Events delivered and not yet settled.
    pub in_flight: u64,
    /// Events not yet due.
    pub delayed: u64,
    /// Age in milliseconds of the oldest unsettled event; 0 if there is none.
    pub oldest_ms: u64,
    /// Deliveries made.
    pub delivered: u64,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Deliveries that repeated an earlier one.
    pub redelivered: u64,
    /// Events whose time to live expired.
    pub expired: u64,
    /// Events dropped because of a limit or because their record was unreadable.
    pub dropped: u64,
    /// Events moved to the dead-letter topic.
    pub dead_lettered: u64,
}
