//! The pool of reading connections. They are opened on demand and shared by all reads.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::storage::StorageError;
use rusqlite::Connection;

use crate::connection;
use crate::error::SqliteError;

/// The most connections. A read waits while all of them are in use.
const MOST: usize = 4;

/// The longest wait for running reads. Each reads a few hundred events, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    in_use: usize,
    /// Whether [`ReadPool::alone`] waits or runs. Then no connection is lent.
    paused: bool,
    closed: bool,
}

/// The pool of reading connections.
#[derive(Debug)]
pub(crate) struct ReadPool {
    pub(crate) path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

impl ReadPool {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read` with a connection. Blocks while all connections are in use.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StorageError>) -> Result<T, StorageError> {
        let lent = Lent { connection: self.borrow()?, readers: self };
        match &lent.connection {
            Some(connection) => read(connection),
            None => Err(StorageError::closed()),
        }
    }

    fn borrow(&self) -> Result<Option<Connection>, StorageError> {
        let wait = |state: &mut State| (state.in_use >= MOST || state.paused) && !state.closed;
        let mut state = self.changed.wait_while(self.lock(), wait).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StorageError::closed());
        }
        state.in_use += 1;
        if let Some(connection) = state.idle.pop() {
            return Ok(Some(connection));
        }
        drop(state);
        connection::reading(&self.path).map(Some).map_err(|error| {
            self.give_back(None);
            SqliteError::into_read_error(error)
        })
    }

    fn give_back(&self, connection: Option<Connection>) {
        let mut state = self.lock();
        state.in_use -= 1;
        if !state.closed {
            state.idle.extend(connection);
        }
        self.changed.notify_all();
    }

    /// Runs `work` once no read is running, or after [`PATIENCE`]. New reads wait until it has finished.
    pub(crate) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut state = self.lock();
        state.paused = true;
        let reading = |state: &mut State| state.in_use > 0 && !state.closed;
        let waited = self.changed.wait_timeout_while(state, PATIENCE, reading);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        let done = work();
        self.lock().paused = false;
        self.changed.notify_all();
        done
    }

    /// Closes the connections, after waiting for running reads.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.changed.notify_all();
        let mut state =
            self.changed.wait_while(state, |state| state.in_use > 0).unwrap_or_else(PoisonError::into_inner);
        state.idle.clear();
    }
}

/// A borrowed connection, returned even if the read panics.
struct Lent<'r> {
    connection: Option<Connection>,
    readers: &'r ReadPool,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.readers.give_back(self.connection.take());
    }
}
