//! The state shared by the threads of a storage: whether it serves, and its counters.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use broker_core::settings::Durability;
use broker_core::storage::{StorageError, StorageErrorKind, StorageStats};
use durable_files::Reserve;

/// Whether a storage serves, and its counters.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    durability: Durability,
    sync_interval: Duration,
    reserve: Reserve,
    /// The failure that took the storage out of service.
    failed: OnceLock<StorageError>,
    closed: AtomicBool,
    damaged: AtomicU64,
    syncs: AtomicU64,
    batches: AtomicU64,
}

impl State {
    /// The state of a serving storage in the data directory `path`.
    #[must_use]
    pub fn new(path: PathBuf, durability: Durability, sync_interval: Duration) -> Self {
        Self {
            path,
            durability,
            sync_interval,
            reserve: Reserve::none(),
            failed: OnceLock::new(),
            closed: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }

    /// Adds a [`Reserve`] of `most` bytes, or of a `part`-th of a small file system. The directory must exist.
    #[must_use]
    pub fn with_reserve(mut self, most: u64, part: u64) -> Self {
        self.reserve = Reserve::new(&self.path, most, part);
        self
    }

    /// The space reserved for a full disk.
    #[must_use]
    pub fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// The point at which a batch counts as durable.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The time between two syncs with `durability = "interval"`.
    #[must_use]
    pub fn sync_interval(&self) -> Duration {
        self.sync_interval
    }

    /// Takes the storage out of service; the first failure is kept. A failure for lack of space also releases the reserve, so that
    /// the storage can be reopened.
    pub fn fail(&self, error: &StorageError) {
        if error.kind() == StorageErrorKind::Full {
            self.reserve.give_back();
        }
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!(
                path = %self.path.display(),
                error = %error,
                "storage out of service until it is reopened"
            );
        }
    }

    /// The failure that took the storage out of service, if any.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageError> {
        self.failed.get()
    }

    /// Begins closing: no further batch is accepted. Returns false if closing had begun before.
    pub fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Whether closing has begun.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The error for a batch if the storage is closed or out of service; `None` if it serves.
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
            "damaged record skipped and left in place"
        );
    }

    /// Counts and reports damage that is put right.
    pub fn mended(&self, place: &str, what: &str) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(path = %self.path.display(), place, what, "damaged record put right as far as possible");
    }

    pub(crate) fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_batches(&self, batches: usize) {
        self.batches.fetch_add(batches as u64, Ordering::Relaxed);
    }

    /// The counters, together with `bytes`, the size of the files.
    #[must_use]
    pub fn stats(&self, bytes: u64) -> StorageStats {
        StorageStats {
            bytes,
            damaged: self.damaged.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
        }
    }
}
