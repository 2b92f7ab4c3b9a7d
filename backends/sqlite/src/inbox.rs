//! The bounded queue into the writer: it takes all that is waiting at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::storage::{Batch, Completer, Place};

/// The most requests that wait. The engine has at most [`broker_core::storage::MAX_OUTSTANDING`] batches of a shard here, so
/// this is room for 128 shards; beyond it `submit` waits for the writer's next look.
const CAPACITY: usize = 128 * broker_core::storage::MAX_OUTSTANDING;

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Commit a batch.
    Commit(Pending),
    /// Sync and end.
    Close,
}

/// A batch, and who waits for it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) batch: Batch,
    pub(crate) written: Completer<Vec<Place>>,
    /// `None` if that stage is complete already.
    pub(crate) safe: Option<Completer<()>>,
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

    /// Waits for requests, but not longer than `time`, and moves all of them to `into`, which is empty.
    pub(crate) fn take(&self, into: &mut Vec<Request>, time: Duration) {
        let nothing = |state: &mut State| state.waiting.is_empty();
        let (mut state, _) =
            self.arrived.wait_timeout_while(self.lock(), time, nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, into);
        self.taken.notify_all();
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Refuses what comes from now on and returns what still waits.
    pub(crate) fn close(&self) -> Vec<Request> {
        let mut state = self.lock();
        state.closed = true;
        self.taken.notify_all();
        std::mem::take(&mut state.waiting)
    }
}
