//! Commands: one line of a client each.
//!
//! | to find | look in |
//! | --- | --- |
//! | a line to a command | [`parse()`] |
//! | the words that name commands, and their usage | [`CommandWords`] |
//! | the right that a command needs | [`Right`], [`Command::needs`] |

mod needs;
mod parse;
#[cfg(test)]
mod tests;
mod words;

use crate::event::EventKey;
use crate::name::{NameError, SubscriptionName, TopicName};

pub use needs::Right;
pub use parse::parse;
pub use words::CommandWords;
#[cfg(test)]
pub(crate) use words::fixed_words;

/// A command, as parsed from a line. JSON in it is not parsed yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `pub <topic> <event>`.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The event's JSON: the rest of the line.
        event: &'a str,
    },
    /// `sub <topic> [<name>]`.
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
    },
    /// `unsub <topic> [<name>]`.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
    },
    /// `detach <topic>`.
    Detach {
        /// The topic.
        topic: TopicName,
    },
    /// `ack <topic> <id> …`.
    Acknowledge {
        /// The topic.
        topic: TopicName,
        /// The ids, at least one.
        ids: Vec<&'a str>,
    },
    /// `ack <topic> *`.
    AcknowledgeAll {
        /// The topic.
        topic: TopicName,
    },
    /// `nack <topic> <id> [<delay_ms>]`.
    Nack {
        /// The topic.
        topic: TopicName,
        /// The id.
        id: &'a str,
        /// The delay of the next delivery, in milliseconds.
        delay_ms: u64,
    },
    /// `touch <topic> <id>`.
    Touch {
        /// The topic.
        topic: TopicName,
        /// The id.
        id: &'a str,
    },
    /// `term <topic> <id> [<reason …>]`.
    Terminate {
        /// The topic.
        topic: TopicName,
        /// The id.
        id: &'a str,
        /// The consumer's free text: the rest of the line.
        note: Option<&'a str>,
    },
    /// `peek <topic> [<subscription>] [<n>] [after <position>]`. One word of digits alone is a number.
    Peek {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
        /// The number of events to show, at most.
        most: usize,
        /// The position to go on behind, if one is given; the end of the answer then says where it stopped.
        after: Option<EventKey>,
    },
    /// `redrive <topic> [<n>]`.
    Redrive {
        /// The topic that the events came from.
        topic: TopicName,
        /// The number of events to move, at most; `None`: all.
        most: Option<u64>,
    },
    /// `purge <topic> [<subscription>]`.
    Purge {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
    },
    /// `hello <json>`.
    Hello {
        /// The options' JSON: the rest of the line.
        options: &'a str,
    },
    /// `topics`.
    Topics,
    /// `stats [<topic>]`.
    Stats {
        /// The topic; `None`: all topics.
        topic: Option<TopicName>,
    },
    /// `help`.
    Help,
    /// `ping`.
    Ping,
    /// `quit`.
    Quit,
}

/// The error in a line. [`crate::protocol::reply`] words it.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandError<'a> {
    /// No such command.
    Unknown(&'a str),
    /// Too few or too many words. Holds the command's usage.
    Usage(String),
    /// An invalid topic name.
    Topic(&'a str, NameError),
    /// An invalid subscription name.
    Subscription(&'a str, NameError),
    /// An invalid delay of a `nack`.
    Delay(&'a str),
    /// An invalid number of events, and the largest valid one.
    Count(&'a str, u64),
    /// An invalid position of a `peek`.
    Position(&'a str),
}
