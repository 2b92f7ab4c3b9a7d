//! The connections for reading: a few, opened when they are needed, shared by all who read.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use broker_core::storage::StorageError;
use rusqlite::Connection;

use crate::connection;
use crate::error::SqliteError;

/// The most connections; who comes when all are in use waits for one.
const MOST: usize = 4;

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    in_use: usize,
    closed: bool,
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Readers {
    pub(crate) path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a connection. Blocking.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StorageError>) -> Result<T, StorageError> {
        let lent = Lent { connection: self.borrow()?, readers: self };
        match &lent.connection {
            Some(connection) => read(connection),
            None => Err(StorageError::closed()),
        }
    }

    fn borrow(&self) -> Result<Option<Connection>, StorageError> {
        let wait = |state: &mut State| state.in_use >= MOST && !state.closed;
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

    /// Closes the connections; waits for those who read.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.changed.notify_all();
        let mut state =
            self.changed.wait_while(state, |state| state.in_use > 0).unwrap_or_else(PoisonError::into_inner);
        state.idle.clear();
    }
}

/// A connection that goes back also if its reader panics.
struct Lent<'r> {
    connection: Option<Connection>,
    readers: &'r Readers,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.readers.give_back(self.connection.take());
    }
}
