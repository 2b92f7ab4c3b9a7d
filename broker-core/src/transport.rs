//! The seam for what clients connect to.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::session::SessionSettings;

/// Accepts connections, turns bytes into session input and session output into bytes; nothing else.
///
/// # Contract
///
/// - It is bound when it is made, so that a port in use is an error before anything runs.
/// - Each connection drives one [`crate::session::Session`] over one [`crate::engine::Link`].
/// - A client that does not read, or sends without end, costs bounded memory and nobody else anything.
/// - On `shutdown` it accepts no more, lets what is under way finish, and returns when its connections have ended or at the
///   latest when it is dropped.
#[async_trait]
pub trait Transport: Send + 'static {
    /// Its one name: its feature, its table in the configuration, its label in figures. `"tcp"`.
    fn name(&self) -> &'static str;

    /// Where it listens, for the log: `127.0.0.1:8000`.
    fn addr(&self) -> String;

    /// What of it can be read again while it serves, if anything: a certificate.
    fn reload(&self) -> Option<Arc<dyn Reload>> {
        None
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When it can accept no more, for a reason that does not pass.
    async fn serve(self: Box<Self>, broker: Broker, shutdown: CancellationToken) -> Result<(), TransportError>;
}

/// Something that was read from files, and can be read again.
pub trait Reload: Send + Sync {
    /// Reads it again, and checks it; nothing changes yet. Blocking, for the time it takes to read small files.
    ///
    /// # Errors
    /// When what there is now cannot be used.
    fn read(&self) -> Result<InForce, ReloadError>;
}

/// Puts in force what was read, and says what that is. Dropped, it changes nothing.
pub type InForce = Box<dyn FnOnce() -> String + Send>;

/// Why something was not read again. What was in force before still is.
#[derive(Debug, thiserror::Error)]
#[error("{what} is as before")]
pub struct ReloadError {
    what: &'static str,
    #[source]
    cause: Box<dyn Error + Send + Sync>,
}

impl ReloadError {
    /// What was to be read, and why it was not.
    pub fn new(what: &'static str, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { what, cause: Box::new(cause) }
    }
}

/// What a transport serves.
#[derive(Clone)]
pub struct Broker {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What sessions need to know.
    pub session: Arc<SessionSettings>,
}

/// Why a transport could not start or go on.
#[derive(Debug, thiserror::Error)]
#[error("transport {transport}: {reason}")]
pub struct TransportError {
    /// The transport's name.
    pub transport: &'static str,
    /// What happened and what to do.
    pub reason: String,
    /// The cause.
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}
