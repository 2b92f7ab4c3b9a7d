//! What the threads of a storage share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use broker_core::name::TopicName;
use broker_core::storage::{StorageError, StorageFigures};

use crate::config::SledConfig;
use crate::database::Database;

/// The state that is not owned by one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SledConfig,
    /// `None` before recovery and after closing. Whoever reads holds the lock while it does, so closing waits for it.
    pub(crate) database: RwLock<Option<Arc<Database>>>,
    /// The numbers of topics, for those who read.
    pub(crate) topics: RwLock<HashMap<TopicName, u32>>,
    /// Why the storage is out of service.
    failed: OnceLock<StorageError>,
    /// Set when closing begins.
    pub(crate) closed: AtomicBool,
    pub(crate) damaged: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) batches: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: SledConfig) -> Self {
        Self {
            config,
            database: RwLock::default(),
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

    /// The open database.
    pub(crate) fn database(&self) -> Option<Arc<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another database in place of the open one, and returns that.
    pub(crate) fn replace(&self, database: Option<Arc<Database>>) -> Option<Arc<Database>> {
        std::mem::replace(&mut *self.database.write().unwrap_or_else(PoisonError::into_inner), database)
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
        let bytes = self.database().map_or(0, |database| bytes_below(&database.path));
        StorageFigures {
            bytes,
            damaged: self.damaged.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            batches: self.batches.load(Relaxed),
        }
    }
}

/// What the files below `dir` take; those that go meanwhile do not count.
pub(crate) fn bytes_below(dir: &PathBuf) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
