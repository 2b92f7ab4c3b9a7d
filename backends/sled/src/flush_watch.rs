//! Wakes a flush that sled has left waiting after a failed write.
//!
//! When the write of a buffer fails, sled stores the error and wakes the threads waiting for the buffer. But it does not wake them if
//! the write was started by the last of several changes to the buffer; the flush then waits indefinitely. Any later change makes sled
//! read its stored error and wake all waiting threads. So a thread makes a small change whenever a flush takes long.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::SledError;
use crate::keys;

/// The age at which a flush is woken, and the time between two attempts. On a slow disk, each attempt costs only a small record.
const LONG: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct State {
    /// The start of the flush under way.
    since: Option<Instant>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    closing: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the thread until the watch is dropped.
    fn run(&self, db: &sled::Db) {
        let mut state = self.lock();
        while !state.closed {
            state = self.closing.wait_timeout(state, LONG).unwrap_or_else(PoisonError::into_inner).0;
            if !state.closed && state.since.is_some_and(|since| since.elapsed() >= LONG) {
                drop(state);
                wake(db);
                state = self.lock();
            }
        }
    }
}

/// Makes a change and undoes it. If sled has stored an error, the change fails and wakes the flush. A change without an effect would
/// not reach the log, and a batch would itself wait for the flush.
fn wake(db: &sled::Db) {
    let key = keys::nothing();
    let _the_flush_reports_it = db.insert(&key, b"").and_then(|_| db.remove(&key));
}

/// Watches the flushes of one database.
#[derive(Debug)]
pub(crate) struct FlushWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl FlushWatch {
    pub(crate) fn start(db: sled::Db) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watching = Arc::clone(&shared);
        let run = move || watching.run(&db);
        let thread = std::thread::Builder::new().name("sled-watch".to_owned()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs `flush` under the watch.
    pub(crate) fn over(&self, flush: impl FnOnce() -> Result<(), SledError>) -> Result<(), SledError> {
        self.shared.lock().since = Some(Instant::now());
        let result = flush();
        self.shared.lock().since = None;
        result
    }
}

impl Drop for FlushWatch {
    /// Waits for the thread, because its handle to the database must not outlive the others.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.closing.notify_all();
        let _its_panic_was_printed = self.thread.take().map(JoinHandle::join);
    }
}
