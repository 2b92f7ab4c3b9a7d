//! The bounded queue into the writer, which takes every waiting request at once.

use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use broker_core::storage::{Batch, Completer, Place, StorageError};

/// The most waiting requests. The engine submits at most [`broker_core::storage::MAX_OUTSTANDING`] batches per shard, so the queue
/// has room for 128 shards; beyond that, `push` waits until the writer takes the queue.
const CAPACITY: usize = 128 * broker_core::storage::MAX_OUTSTANDING;

/// A request to the writer.
#[derive(Debug)]
pub(crate) enum Request {
    /// Writes a batch.
    Commit {
        batch: Batch,
        written: Completer<Vec<Place>>,
        /// `None` if the stage is already complete.
        durable: Option<Completer<()>>,
    },
    /// Records that the segments up to `through` are gone, and syncs that record.
    Free { through: u64, done: SyncSender<Result<(), StorageError>> },
    /// Begins a new segment.
    Rotate { done: SyncSender<Result<(), StorageError>> },
    /// Syncs and ends the writer.
    Close,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Request>,
    closed: bool,
}

/// The queue: many threads push requests, the writer takes them.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    state: Mutex<State>,
    arrived: Condvar,
    taken: Condvar,
}

impl WriteQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request, or returns it if the writer has ended. Waits while the queue is full.
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

    /// Waits until there are requests, without taking them. Only the thread that holds the writer may take requests, or later ones
    /// could overtake them.
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

    /// Whether the queue is empty and open.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && !state.closed
    }

    /// Refuses further requests and returns the waiting ones.
    pub(crate) fn close(&self) -> Vec<Request> {
        let mut state = self.lock();
        state.closed = true;
        self.taken.notify_all();
        self.arrived.notify_all();
        std::mem::take(&mut state.waiting)
    }
}
