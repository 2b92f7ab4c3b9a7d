//! Running totals of a feed, readable while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Running totals of a feed. Each is exact, but they are not read at one instant.
#[derive(Debug, Default)]
pub struct FeedCounters {
    events: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
}

impl FeedCounters {
    /// Events handed to connections, panics included. The latest ones may still be in buffers.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Streams opened since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Streams open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn add_events(&self, count: u64) {
        self.events.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a stream as open while the returned guard lives.
    pub(super) fn open_one(self: &Arc<Self>) -> OpenGuard {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenGuard(Arc::clone(self))
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct OpenGuard(Arc<FeedCounters>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
