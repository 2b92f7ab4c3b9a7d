//! The limit on delivered bytes that a client has not read.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The bytes of unwritten deliveries on one connection at which the engine stops sending to it.
pub const OUTPUT_LIMIT: usize = 256 * 1024;

/// Counts the delivered bytes that are not written to a client yet, and so bounds the memory of a client that does not read.
///
/// The engine adds [`Delivery::cost`](super::Delivery::cost) for each delivery it sends. The session subtracts it once the
/// delivery has been written, and sends [`Op::Resume`](super::Op::Resume) when [`Gauge::written`] asks for it.
#[derive(Debug, Default)]
pub struct Gauge {
    bytes: AtomicUsize,
    starved: AtomicBool,
}

impl Gauge {
    /// Whether more may be sent. If not, marks the link as starved, so that its session sends [`Op::Resume`](super::Op::Resume).
    pub fn has_room(&self) -> bool {
        if self.bytes.load(Ordering::SeqCst) < OUTPUT_LIMIT {
            return true;
        }
        self.starved.store(true, Ordering::SeqCst);
        // The session may have written everything between the load and the store. It then saw no mark and will not send a
        // resume, so the load is repeated after the mark is set.
        self.bytes.load(Ordering::SeqCst) < OUTPUT_LIMIT
    }

    /// Adds `bytes` that are being sent.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Subtracts `bytes` that were written. Returns true if the engine waits for [`Op::Resume`](super::Op::Resume).
    #[must_use]
    pub fn written(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        before - bytes < OUTPUT_LIMIT && self.starved.swap(false, Ordering::SeqCst)
    }
}
