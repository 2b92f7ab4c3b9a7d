//! The slot that holds the writer. The writing thread takes it to write; while it is free, a thread that submits a small batch may
//! take it as well.
//!
//! Handing a batch to another thread and being woken by it costs two thread switches, several times the cost of a small write: a
//! consumer with one event in flight would mostly wait for the scheduler. Two kinds of batches still go to the writing thread: a
//! large one, which is encoded there while the engine continues, and any batch during a sync, because a concurrent write may block.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::write_queue::{Request, WriteQueue};
use crate::writer::Writer;

/// The writer; empty once it has ended.
pub(crate) struct WriterSlot(Mutex<Option<Writer>>);

impl std::fmt::Debug for WriterSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterSlot")
    }
}

impl WriterSlot {
    pub(crate) fn new(writer: Writer) -> Self {
        Self(Mutex::new(Some(writer)))
    }

    /// Runs the writing thread until the writer is asked to close.
    pub(crate) fn run(&self, queue: &WriteQueue) {
        loop {
            queue.wait();
            let mut slot = SlotGuard(self.0.lock().unwrap_or_else(PoisonError::into_inner));
            let Some(writer) = slot.0.as_mut() else { return };
            if writer.turn() {
                // Dropping the writer refuses later requests.
                *slot.0 = None;
                return;
            }
        }
    }

    /// Writes the batch on this thread if it is small and the writer is idle; otherwise returns it.
    pub(crate) fn write(&self, queue: &WriteQueue, request: Request) -> Result<(), Request> {
        let mut slot = match self.0.try_lock() {
            Ok(guard) => SlotGuard(guard),
            Err(TryLockError::Poisoned(guard)) => SlotGuard(guard.into_inner()),
            Err(TryLockError::WouldBlock) => return Err(request),
        };
        match slot.0.as_mut() {
            // Batches in the queue are older and must go first. Any that arrives from now on is younger, so the order holds.
            Some(writer) if queue.is_idle() && writer.would_take(&request) => {
                writer.take_at_once(request);
                Ok(())
            }
            _ => Err(request),
        }
    }
}

/// Ends the writer if the thread that holds the slot panics, so that no stage stays incomplete.
struct SlotGuard<'a>(MutexGuard<'a, Option<Writer>>);

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0 = None;
        }
    }
}
