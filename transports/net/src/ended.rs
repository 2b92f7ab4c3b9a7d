//! Why a connection ended.

use std::fmt;
use std::io;
use std::time::Duration;

use broker_core::protocol::foreign::Foreign;

/// Why a connection ended: for the log, and for wires that can tell the client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The client quit or closed, and everything was answered.
    ByClient,
    /// The socket failed.
    Socket(io::Error),
    /// The client did not take its output in time.
    NotReading(Duration),
    /// Nothing was said for too long.
    Idle(Duration),
    /// The broker is stopping.
    Shutdown,
    /// The engine has closed the link and goes on with another one.
    EngineGone,
    /// The client's token was wrong, missing or taken back.
    TurnedAway,
    /// The client speaks another protocol.
    Foreign(Foreign),
    /// As many connections as are allowed are open.
    Full(usize),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClient => f.write_str("closed by the client"),
            Self::Socket(error) => write!(f, "{error}"),
            Self::NotReading(limit) => write!(f, "output not taken for {} ms", limit.as_millis()),
            Self::Idle(limit) => write!(f, "silent for {} ms", limit.as_millis()),
            Self::Shutdown => f.write_str("the broker is stopping"),
            Self::EngineGone => f.write_str("the storage was opened again"),
            Self::TurnedAway => f.write_str("authentication failed"),
            Self::Foreign(foreign) => write!(f, "{foreign}"),
            Self::Full(limit) => write!(f, "server is full: {limit} connections"),
        }
    }
}
