//! Whether the storage serves, and its counters.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use broker_core::storage::{StorageError, StorageFigures};

use crate::settings::Durability;

/// What the threads of a storage tell each other about it.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    durability: Durability,
    /// Why the storage is out of service.
    failed: OnceLock<StorageError>,
    closed: AtomicBool,
    damaged: AtomicU64,
    syncs: AtomicU64,
    batches: AtomicU64,
}

impl State {
    /// Of a storage in the data directory `path`, which serves.
    #[must_use]
    pub fn new(path: PathBuf, durability: Durability) -> Self {
        Self {
            path,
            durability,
            failed: OnceLock::new(),
            closed: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }

    /// When a batch counts as safe.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Takes the storage out of service; the first reason stays.
    pub fn fail(&self, error: &StorageError) {
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!(
                path = %self.path.display(),
                error = %error,
                "the storage is out of service until it is opened again"
            );
        }
    }

    /// Why the storage is out of service, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageError> {
        self.failed.get()
    }

    /// Begins closing: nothing is accepted from now on. False: that had begun before.
    pub fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Whether closing has begun.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Why nothing can be asked of the storage now, if so.
    #[must_use]
    pub fn refusal(&self) -> Option<StorageError> {
        if self.is_closed() {
            return Some(StorageError::closed());
        }
        self.failure().cloned()
    }

    /// Counts and reports a damaged record.
    pub fn damage(&self, place: &str, what: &str) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            path = %self.path.display(),
            place,
            what,
            "damage in the database; the record is left in place and passed over"
        );
    }

    pub(crate) fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_batches(&self, batches: usize) {
        self.batches.fetch_add(batches as u64, Ordering::Relaxed);
    }

    /// The counters, with what the files take.
    #[must_use]
    pub fn figures(&self, bytes: u64) -> StorageFigures {
        StorageFigures {
            bytes,
            damaged: self.damaged.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
        }
    }
}
