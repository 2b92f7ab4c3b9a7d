//! What the threads of a storage share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{OnceLock, RwLock};

use broker_core::name::TopicName;
use broker_core::storage::{StorageError, StorageFigures};

use crate::config::SqliteConfig;
use crate::directory;
use crate::readers::Readers;

/// The state that is not owned by one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SqliteConfig,
    /// The connections for reading.
    pub(crate) readers: Readers,
    /// The numbers of topics, for those who read.
    pub(crate) topics: RwLock<HashMap<TopicName, i64>>,
    /// Why the storage is out of service.
    failed: OnceLock<StorageError>,
    /// Set when closing begins.
    pub(crate) closed: AtomicBool,
    pub(crate) damaged: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) batches: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: SqliteConfig) -> Self {
        Self {
            readers: Readers::new(directory::database(&config.path)),
            config,
            topics: RwLock::default(),
            failed: OnceLock::new(),
            closed: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }

    /// Takes the storage out of service; the first reason stays.
    pub(crate) fn fail(&self, error: &StorageError) {
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!(
                path = %self.config.path.display(),
                error = %error,
                "the storage is out of service until it is opened again"
            );
        }
    }

    /// Why the storage is out of service, if it is.
    pub(crate) fn failure(&self) -> Option<&StorageError> {
        self.failed.get()
    }

    /// Counts and reports a damaged record.
    pub(crate) fn damage(&self, place: &str, what: &str) {
        self.damaged.fetch_add(1, Relaxed);
        tracing::error!(
            path = %self.config.path.display(),
            place,
            what,
            "damage in the database; the record is left in place and passed over"
        );
    }

    pub(crate) fn figures(&self) -> StorageFigures {
        // Sizes only: to open and close the file beside SQLite would let go of SQLite's locks on it.
        let size = |path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let bytes = directory::files(&self.config.path).into_iter().map(size).sum();
        StorageFigures {
            bytes,
            damaged: self.damaged.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            batches: self.batches.load(Relaxed),
        }
    }
}
