//! Who writes: the writing thread, or, while it has nothing to do, whoever submits a small batch.
//!
//! Handing a batch to another thread and being woken by it costs two changes of thread, several times what a small write costs. So
//! a consumer with one event in flight would wait mostly for the scheduler. A large batch goes to the thread all the same, so that
//! it is encoded beside what the engine does, and so does any while a sync is under way, beside which a write may have to wait.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::inbox::{Inbox, Request};
use crate::writer::Writer;

/// The place of the writer; empty once that has ended.
pub(crate) struct Desk(Mutex<Option<Writer>>);

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

impl Desk {
    pub(crate) fn new(writer: Writer) -> Self {
        Self(Mutex::new(Some(writer)))
    }

    /// The thread: until the writer is asked to close.
    pub(crate) fn run(&self, inbox: &Inbox) {
        loop {
            inbox.wait();
            let mut seat = Seat(self.0.lock().unwrap_or_else(PoisonError::into_inner));
            let Some(writer) = seat.0.as_mut() else { return };
            if writer.turn() {
                // Dropping it refuses what came after.
                *seat.0 = None;
                return;
            }
        }
    }

    /// Writes a batch here and now if it is small and the writer has nothing else to do; else gives it back.
    pub(crate) fn write(&self, inbox: &Inbox, request: Request) -> Result<(), Request> {
        let mut seat = match self.0.try_lock() {
            Ok(guard) => Seat(guard),
            Err(TryLockError::Poisoned(guard)) => Seat(guard.into_inner()),
            Err(TryLockError::WouldBlock) => return Err(request),
        };
        match seat.0.as_mut() {
            // What waits is older. Nothing can join it before this is written, or rather, what does is younger.
            Some(writer) if inbox.is_idle() && writer.would_take(&request) => {
                writer.take_at_once(request);
                Ok(())
            }
            _ => Err(request),
        }
    }
}

/// Whoever panics at the desk ends the writer, so that nobody waits for what will not happen.
struct Seat<'a>(MutexGuard<'a, Option<Writer>>);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0 = None;
        }
    }
}
