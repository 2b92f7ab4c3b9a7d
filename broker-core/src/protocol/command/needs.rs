//! The right that each command needs: the whole of access control in one table.

use super::Command;
use crate::name::TopicName;

/// A right that a session must have for a command. The session checks it in one place, before it executes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right<'a> {
    /// Open to every client, even to one that has not given the token that the broker requires.
    None,
    /// Open to every client that is authenticated, or that need not be.
    Authenticated,
    /// May publish to the topic.
    Publish(&'a TopicName),
    /// May subscribe to the topic.
    Subscribe(&'a TopicName),
    /// May subscribe to the topic and is an operator.
    Operate {
        /// The topic.
        topic: &'a TopicName,
        /// The act, as the refusal words it: `not allowed to <verb> topic …`.
        verb: &'static str,
    },
    /// May see the topic's statistics: may publish to it, may subscribe to it, or is an operator.
    See(&'a TopicName),
}

impl Command<'_> {
    /// The right that this command needs.
    ///
    /// The match has no wildcard, so that a new command does not compile until its right has been decided.
    #[must_use]
    pub fn needs(&self) -> Right<'_> {
        match self {
            // It carries the token.
            Self::Hello { .. } => Right::None,
            Self::Help | Self::Ping | Self::Quit => Right::Authenticated,
            // Their answers leave out the topics that the session may not see.
            Self::Topics | Self::Stats { topic: None } => Right::Authenticated,
            Self::Stats { topic: Some(topic) } => Right::See(topic),
            Self::Publish { topic, .. } => Right::Publish(topic),
            Self::Subscribe { topic, .. } | Self::Unsubscribe { topic, .. } => Right::Subscribe(topic),
            // They concern this session's own subscription and the events in flight on it, for which it needed
            // `Subscribe` already.
            Self::Detach { .. }
            | Self::Acknowledge { .. }
            | Self::AcknowledgeAll { .. }
            | Self::Nack { .. }
            | Self::Touch { .. }
            | Self::Terminate { .. } => Right::Authenticated,
            Self::Peek { topic, .. } => Right::Operate { topic, verb: "peek into" },
            Self::Purge { topic, .. } => Right::Operate { topic, verb: "purge" },
            Self::Redrive { topic, .. } => Right::Operate { topic, verb: "redrive" },
        }
    }
}
