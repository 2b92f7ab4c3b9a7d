//! The state of a connection.

use std::time::Duration;

use crate::error::Error;

/// The state of a publishing connection or of a subscription, as its `state()` shows it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Not needed yet: nothing has been published.
    Idle,
    /// Being made.
    Connecting,
    /// Up.
    Connected {
        /// 1 for the first connection, 2 after the first reconnect, and so on.
        connection: u64,
    },
    /// Down. A new attempt follows.
    Waiting {
        /// How many attempts or sessions have failed in a row.
        failures: u32,
        /// The wait before the next attempt, from now on.
        wait: Duration,
        /// The last failure.
        reason: Error,
    },
    /// Over for good.
    Ended {
        /// [`Error::Closed`] if this program wanted it.
        reason: Error,
    },
}

impl ConnectionState {
    /// Whether the connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// Whether the connection has ended for good.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}
