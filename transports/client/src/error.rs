//! The client's errors, split by what the caller does next.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::reply::full;

/// The reason why a call, a publish or a subscription failed.
///
/// It is `Clone` because one cause may end many things at once: every unconfirmed publish hears the same reason.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller gave something that cannot be sent: a bad name, a bad id, a message that is not JSON, a setting out
    /// of range. Nothing was sent. Correct it.
    #[error("{0}")]
    Invalid(String),

    /// The address has a scheme that this build of the client cannot dial.
    #[error(
        "{scheme}:// is not supported by this build of the client: rebuild it with its feature, or use tcp://host:port"
    )]
    Unsupported {
        /// The scheme, without `://`.
        scheme: &'static str,
    },

    /// The line would be longer than the broker takes. Nothing was sent.
    #[error("the line has {bytes} bytes, and the broker takes {limit}")]
    TooLarge {
        /// The length of the line, its ending not counted.
        bytes: usize,
        /// The broker's `max_line_bytes`.
        limit: usize,
    },

    /// The broker answered `error: …` to this very command. Whether a later attempt can work is in the reason: a full
    /// topic may drain, an invalid event stays invalid.
    #[error("refused by the broker: {reason}")]
    Refused {
        /// The text after `error: `, or the whole line for `no_event_error`.
        reason: String,
    },

    /// The broker asks for a token, or for another one. Never retried: waiting does not make a token right.
    #[error("authentication: {reason}")]
    Auth {
        /// The text after `error: `.
        reason: String,
    },

    /// The broker has as many connections as it allows, or takes none from this address for a while, after too many wrong
    /// tokens. Retried like [`Error::Unreachable`].
    #[error("{reason}")]
    ServerFull {
        /// The text after `error: `.
        reason: String,
    },

    /// No connection could be made. Retried in the background; returned by a first attempt, or when
    /// [`BackoffSettings::max_attempts`](crate::BackoffSettings::max_attempts) is used up.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The address that was dialled.
        address: Address,
        /// The operating system's error.
        #[source]
        source: Arc<io::Error>,
    },

    /// The other end did not answer in time. Treated as a lost connection.
    #[error("no answer to {what} within {after:?}")]
    Timeout {
        /// The answer that was awaited.
        what: &'static str,
        /// The time limit.
        after: Duration,
    },

    /// The other end does not speak version 1 of the line protocol. During the handshake this is final; later on it
    /// costs the connection, and a new one is made.
    #[error("the other end does not keep to the protocol: {0}")]
    Protocol(String),

    /// The connection went away before the answer: what was asked may or may not have happened.
    #[error("the connection was lost")]
    Lost {
        /// The operating system's error; `None` for an orderly end of the stream.
        #[source]
        source: Option<Arc<io::Error>>,
    },

    /// The durable subscription was removed (`unsub` on another connection). It is not created again, since the removal was
    /// intended.
    #[error("the subscription was removed: {reason}")]
    Removed {
        /// The text after `error: `.
        reason: String,
    },

    /// The client, or the subscription, has been closed by this program.
    #[error("closed")]
    Closed,
}

impl Error {
    /// Whether trying the same connection again, later, can help. The background tasks go by this.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ServerFull { .. } | Self::Unreachable { .. } | Self::Timeout { .. } | Self::Lost { .. } => true,
            Self::Invalid(_)
            | Self::Unsupported { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::Auth { .. }
            | Self::Protocol(_)
            | Self::Removed { .. }
            | Self::Closed => false,
        }
    }

    /// Whether the broker refused an event because its topic is full: it can be published once there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let Self::Refused { reason } = self else { return false };
        let topic = reason.strip_prefix("topic ").and_then(|rest| rest.split(' ').next());
        topic.is_some_and(|topic| full(reason, topic).is_some())
    }

    /// The message with the operating system's error, for a log line.
    pub(crate) fn with_causes(&self) -> String {
        match self {
            Self::Unreachable { source, .. } | Self::Lost { source: Some(source) } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }

    pub(crate) fn lost(source: io::Error) -> Self {
        Self::Lost { source: Some(Arc::new(source)) }
    }
}

/// The start of a text from the other end, fit for an error or a log line: escaped, so that it cannot forge one, and
/// cut, so that it cannot flood one.
pub(crate) fn excerpt(text: &str) -> String {
    const MOST: usize = 80;
    let mut out: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}
