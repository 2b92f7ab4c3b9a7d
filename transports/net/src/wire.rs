//! The part that a transport adds: how lines travel on a stream of bytes.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::time::Duration;

use broker_core::protocol::foreign::Foreign;
use broker_core::session::Session;
use broker_core::session::output::Output;

use crate::ended::Ended;
use crate::stream::Stream;

/// Makes a wire of each stream that is accepted.
pub trait Protocol: Send + Sync + 'static {
    /// The wire that it makes.
    type Wire: Wire + 'static;

    /// Performs the handshake before the greeting. The caller bounds its time. A client that is refused has been told why.
    ///
    /// # Errors
    /// When the client does not keep to what is agreed, or the socket fails.
    fn open(&self, stream: Stream) -> impl Future<Output = Result<Self::Wire, OpenError>> + Send;
}

/// One connection's lines.
pub trait Wire: Send {
    /// Waits for something from the client, and hands it to `session`; at the end of it, says so to the session. Cancel-safe.
    ///
    /// # Errors
    /// When the connection cannot go on, not even for the replies that are due.
    fn receive(&mut self, session: &mut Session) -> impl Future<Output = Result<(), Ended>> + Send;

    /// Writes all of `output`. Not cancel-safe.
    ///
    /// # Errors
    /// When the socket fails, or the client takes nothing at all for as long as `limit`.
    fn send(&mut self, output: &mut Output, limit: Duration) -> impl Future<Output = Result<(), Ended>> + Send;

    /// Says goodbye so that what was written arrives, and the reason with it where the protocol has a place for one; within a
    /// few seconds.
    fn close(self, why: &Ended) -> impl Future<Output = ()> + Send;
}

/// The reason why a stream did not become a wire.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The socket failed, or TLS did.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// The client was refused, and told so.
    #[error("{0}")]
    Refused(Cow<'static, str>),
    /// The client speaks another protocol.
    #[error("{0}")]
    Foreign(Foreign),
}
