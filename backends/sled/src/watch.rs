//! Wakes a flush that sled has forgotten.
//!
//! When writing a buffer fails, sled notes the error and wakes whoever waits for the buffer, except where the buffer was
//! written because the last of several changes had gone into it: then nobody is woken, and a flush waits for ever. Changing
//! anything makes sled look at its note, and wake all who wait. So a flush that takes long is looked after.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::SledError;
use crate::keys;

/// A flush that takes longer is looked after, and how often. On a disk that is only slow it costs a small record each time.
const LONG: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct State {
    /// When the flush that is under way began.
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

    /// The thread: until it is dropped.
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

/// Changes something and takes it back. If sled has noted an error, this fails as the flush is about to. Changes that do nothing,
/// and batches, which wait for the flush, would not do.
fn wake(db: &sled::Db) {
    let key = keys::nothing();
    let _the_flush_says_so = db.insert(&key, b"").and_then(|_| db.remove(&key));
}

/// Looks after the flushes of one database.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(db: sled::Db) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watching = Arc::clone(&shared);
        let run = move || watching.run(&db);
        let thread = std::thread::Builder::new().name("sled-watch".to_owned()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Does `flush`, looked after.
    pub(crate) fn over(&self, flush: impl FnOnce() -> Result<(), SledError>) -> Result<(), SledError> {
        self.shared.lock().since = Some(Instant::now());
        let result = flush();
        self.shared.lock().since = None;
        result
    }
}

impl Drop for Watch {
    /// Waits for the thread: its handle must not be sled's last.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.closing.notify_all();
        let _its_panic_was_printed = self.thread.take().map(JoinHandle::join);
    }
}
