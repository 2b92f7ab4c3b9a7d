//! The exports of a plugin: its keys, and the constructor of its configuration.
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use broker_core::settings::{Key, MadeSource, Plugin, Preset, Shape, SourceConfig, read};
//! use broker_core::source::SourceError;
//!
//! #[derive(Debug, serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Clock {
//!     every_ms: u64,
//! }
//!
//! impl SourceConfig for Clock {
//!     fn make(&self, name: &str) -> Result<MadeSource, SourceError> {
//!         Err(SourceError { source_name: name.to_owned(), reason: "not in an example".to_owned(), cause: None })
//!     }
//! }
//!
//! pub const PLUGIN: Plugin<dyn SourceConfig> = Plugin {
//!     doc: "An event at regular intervals.",
//!     keys: &[Key::with_default("every_ms", Shape::Int(1, 60_000), Preset::Int(1000), "Milliseconds between two events.")],
//!     configure: |values| Ok(Arc::new(read::<Clock>(values)?)),
//! };
//! # assert!((PLUGIN.configure)(&broker_core::settings::defaults(PLUGIN.keys)).is_ok());
//! ```

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::key::Key;
use super::values::{Problem, Values};
use crate::source::{Source, SourceError, Trouble};
use crate::storage::check::Check;
use crate::storage::{Storage, StorageError};
use crate::transport::{Transport, TransportError};

/// A plugin: the keys of its table, and how their values become its configuration `C`.
pub struct Plugin<C: ?Sized + 'static> {
    /// One line about the plugin, for `herald config init` and the reference page.
    pub doc: &'static str,
    /// The plugin's own keys. A storage has those of [`storage::SHARED`](super::storage::SHARED) too.
    pub keys: &'static [Key],
    /// Builds the configuration from values that have passed the check of `keys`, or reports every remaining problem.
    /// Opens, binds and connects nothing.
    pub configure: fn(&Values) -> Result<Arc<C>, Vec<Problem>>,
}

impl<C: ?Sized> Clone for Plugin<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: ?Sized> Copy for Plugin<C> {}

/// Whether opening a storage honours `clean_on_start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Yes: the broker starts.
    AsConfigured,
    /// No: the storage is reopened after a failure, or opened offline, and must keep its contents.
    KeepData,
}

/// The configuration of a storage.
pub trait StorageConfig: Debug + Send + Sync {
    /// Opens the storage. Blocking.
    ///
    /// # Errors
    /// [`StorageError`], as [`Storage`] documents.
    fn open(&self, start: Start) -> Result<Arc<dyn Storage>, StorageError>;

    /// Takes the data directory for checking and repair; `clean_on_start` does not apply. Blocking.
    ///
    /// # Errors
    /// [`StorageError`] if the directory is in use or does not belong to this storage.
    fn check(&self) -> Result<Box<dyn Check>, StorageError>;

    /// Whether the data directory holds this storage; an empty one does not. Changes nothing, even if it fails. Blocking.
    ///
    /// # Errors
    /// [`StorageError`] if the directory holds something else, or cannot be read.
    fn is_there(&self) -> Result<bool, StorageError>;
}

/// The configuration of a transport.
#[async_trait]
pub trait TransportConfig: Debug + Send + Sync {
    /// The most connections that may be open at a time; each takes an open file.
    fn max_connections(&self) -> usize;

    /// Whether connections are encrypted.
    fn is_encrypted(&self) -> bool;

    /// Reads the listener's files, such as its certificate, only to check them, for `herald config check`. Blocking.
    ///
    /// # Errors
    /// [`TransportError`], as [`TransportConfig::bind`] would return it.
    fn check_files(&self) -> Result<(), TransportError>;

    /// Binds the listener. It accepts connections once the transport serves.
    ///
    /// # Errors
    /// [`TransportError`] if the address cannot be bound, or the certificate is invalid.
    async fn bind(&self) -> Result<Box<dyn Transport>, TransportError>;
}

/// The configuration of a source.
pub trait SourceConfig: Debug + Send + Sync {
    /// Creates the source. It connects to nothing until it runs.
    ///
    /// # Errors
    /// [`SourceError`] if it cannot be created; `configure` should have reported the reason.
    fn make(&self, name: &str) -> Result<MadeSource, SourceError>;
}

/// A source that has not started, and its counters, which remain readable while it runs.
pub struct MadeSource {
    /// The source.
    pub source: Box<dyn Source>,
    /// Its counters.
    pub stats: Arc<dyn Fn() -> SourceStats + Send + Sync>,
    /// The failure that it currently retries, if any.
    pub trouble: Trouble,
}

/// The counters of a source since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Events read from the feed.
    pub read: u64,
    /// Events that the broker accepted.
    pub published: u64,
    /// Events that the source's rules left out, or the broker refused.
    pub skipped: u64,
}
