//! The bounded queue into the writer: it takes all that is waiting at once.

use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use broker_core::storage::{Batch, Completer, Place, StorageError};

/// The most requests that wait. The engine has at most [`broker_core::storage::MAX_OUTSTANDING`] batches of a shard here, so
/// this is room for 128 shards; beyond it `submit` waits for the writer's next look.
const CAPACITY: usize = 128 * broker_core::storage::MAX_OUTSTANDING;

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Write a batch.
    Commit {
        batch: Batch,
        written: Completer<Vec<Place>>,
        /// `None` if that stage is complete already.
        safe: Option<Completer<()>>,
    },
    /// Write the note that the segments up to this one are gone, and sync it.
    Free { through: u64, done: SyncSender<Result<(), StorageError>> },
    /// Begin a new segment.
    Rotate { done: SyncSender<Result<(), StorageError>> },
    /// Sync and end.
    Close,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Request>,
    closed: bool,
}

/// Many put in, the writer takes out.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    taken: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request; gives it back if the writer is gone.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut state = self.lock();
        while state.waiting.len() >= CAPACITY && !state.closed {
            state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(request);
        }
        state.waiting.push(request);
        // The writer sleeps only on an empty queue.
        if state.waiting.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits until there are requests, and leaves them there: whoever takes them must own the writer, lest later ones overtake.
    pub(crate) fn wait(&self) {
        let mut state = self.lock();
        while state.waiting.is_empty() && !state.closed {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Moves all requests to `into`, which is empty.
    pub(crate) fn take(&self, into: &mut Vec<Request>) {
        let mut state = self.lock();
        std::mem::swap(&mut state.waiting, into);
        self.taken.notify_all();
    }

    /// Whether nothing waits and something may come.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && !state.closed
    }

    /// Refuses what comes from now on and returns what still waits.
    pub(crate) fn close(&self) -> Vec<Request> {
        let mut state = self.lock();
        state.closed = true;
        self.taken.notify_all();
        self.arrived.notify_all();
        std::mem::take(&mut state.waiting)
    }
}
