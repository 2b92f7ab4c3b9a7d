//! The state shared by the threads of a storage: whether it serves, and its counters.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use broker_core::storage::{StorageError, StorageErrorKind, StorageStats};
use durable_files::{Files, Reserve};

use crate::config::JsonLogConfig;
use crate::segment::Segments;

/// The state that no single thread owns.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: JsonLogConfig,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) segments: Segments,
    /// The space reserved for a full disk.
    pub(crate) reserve: Reserve,
    /// The failure that took the storage out of service.
    failed: OnceLock<StorageError>,
    /// Set when closing begins.
    pub(crate) closed: AtomicBool,
    pub(crate) damaged: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) batches: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: JsonLogConfig, files: Arc<dyn Files>) -> Self {
        let segments = Segments::new(&config.path, files.clone());
        Self {
            config,
            files,
            segments,
            reserve: Reserve::none(),
            failed: OnceLock::new(),
            closed: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }

    /// Adds a reserve.
    pub(crate) fn with_reserve(mut self, reserve: Reserve) -> Self {
        self.reserve = reserve;
        self
    }

    /// Takes the storage out of service; the first failure is kept. A failure for lack of space also releases the reserve, so that
    /// the storage can be reopened.
    pub(crate) fn fail(&self, error: &StorageError) {
        if error.kind() == StorageErrorKind::Full {
            self.reserve.give_back();
        }
        if self.failed.set(error.clone()).is_ok() {
            tracing::error!(
                path = %self.config.path.display(),
                error = %error,
                "storage out of service until it is reopened"
            );
        }
    }

    /// The failure that took the storage out of service, if any.
    pub(crate) fn failure(&self) -> Option<&StorageError> {
        self.failed.get()
    }

    /// Counts and reports a damaged record.
    pub(crate) fn damage(&self, path: &Path, offset: u64, what: &str) {
        self.damaged.fetch_add(1, Relaxed);
        tracing::error!(file = %path.display(), offset, what, "damaged record skipped and left in place");
    }

    pub(crate) fn stats(&self) -> StorageStats {
        StorageStats {
            bytes: self.segments.bytes(),
            damaged: self.damaged.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            batches: self.batches.load(Relaxed),
        }
    }
}
