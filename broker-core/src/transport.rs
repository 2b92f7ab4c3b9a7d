//! The seam for transports, which clients connect to.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::session::SessionSettings;

/// Accepts connections, and moves bytes between clients and their sessions. Commands are the session's concern.
///
/// # Contract
///
/// - A transport binds its address when it is created, so that a port in use is an error before anything runs.
/// - Each connection drives one [`crate::session::Session`] over one [`crate::engine::Link`].
/// - A client that does not read, or never stops sending, costs bounded memory and does not slow other clients.
/// - On `shutdown` it stops accepting, lets commands in progress finish, and returns when its connections have ended. Dropping
///   the future aborts them.
#[async_trait]
pub trait Transport: Send + 'static {
    /// The transport's one name: its feature, its table in the configuration, its metrics label. `"tcp"`.
    fn name(&self) -> &'static str;

    /// The address it listens on, for the log: `127.0.0.1:8000`.
    fn addr(&self) -> String;

    /// The part that can be reloaded while it serves, such as a certificate; `None` if there is none.
    fn reload(&self) -> Option<Arc<dyn Reload>> {
        None
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When it can no longer accept connections, for a reason that is not transient.
    async fn serve(self: Box<Self>, broker: Broker, shutdown: CancellationToken) -> Result<(), TransportError>;
}

/// Settings in files that can be reloaded while the broker runs.
pub trait Reload: Send + Sync {
    /// Reads and validates the files without applying them, so that several can be applied together or not at all. Blocking, for
    /// as long as reading small files takes.
    ///
    /// # Errors
    /// When the files cannot be read or used.
    fn read(&self) -> Result<InForce, ReloadError>;
}

/// Applies what was read, and returns the certificate's file for the log. Dropping it changes nothing.
pub type InForce = Box<dyn FnOnce() -> String + Send>;

/// The reason that a reload failed. The settings in force are unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{what} is as before")]
pub struct ReloadError {
    what: &'static str,
    #[source]
    cause: Box<dyn Error + Send + Sync>,
}

impl ReloadError {
    /// Names the settings, and the cause.
    pub fn new(what: &'static str, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { what, cause: Box::new(cause) }
    }
}

/// The broker that a transport serves.
#[derive(Clone)]
pub struct Broker {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The settings of its sessions.
    pub session: Arc<SessionSettings>,
}

/// The reason that a transport failed, worded for an operator.
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
