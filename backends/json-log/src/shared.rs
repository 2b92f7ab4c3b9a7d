//! What the threads of a storage share.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use broker_core::storage::{StorageError, StorageFigures};

use crate::config::JsonLogConfig;
use crate::files::Files;
use crate::segment::Segments;

/// The state that is not owned by one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: JsonLogConfig,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) segments: Segments,
    /// Why the storage is out of service.
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
    pub(crate) fn damage(&self, path: &Path, offset: u64, what: &str) {
        self.damaged.fetch_add(1, Relaxed);
        tracing::error!(file = %path.display(), offset, what, "damage in the log; the record is left in place and passed over");
    }

    pub(crate) fn figures(&self) -> StorageFigures {
        StorageFigures {
            bytes: self.segments.bytes(),
            damaged: self.damaged.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            batches: self.batches.load(Relaxed),
        }
    }
}
