//! The bounded queue into the writer: it takes all that is waiting at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::storage::{Batch, Commit, Completer, Place, StorageError, stage};

use crate::settings::Durability;
use crate::state::State;

/// The most requests that wait. The engine has at most [`broker_core::storage::MAX_OUTSTANDING`] batches of a shard here, so
/// this is room for 128 shards; beyond it [`Inbox::submit`] waits for the writer's next look.
const CAPACITY: usize = 128 * broker_core::storage::MAX_OUTSTANDING;

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Commit a batch.
    Commit(Batch, Waiting),
    /// Sync and end.
    Close,
}

/// Who waits for a batch.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) written: Completer<Vec<Place>>,
    /// `None` if that stage is complete already.
    pub(crate) safe: Option<Completer<()>>,
}

impl Waiting {
    /// Tells them that it will not happen.
    pub(crate) fn fail(self, error: &StorageError) {
        self.written.complete(Err(error.clone()));
        self.safe.into_iter().for_each(|safe| safe.complete(Err(error.clone())));
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Request>,
    closed: bool,
}

/// Many put in, the writer takes out.
#[derive(Debug, Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    arrived: Condvar,
    taken: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a batch, and says when it is written and safe: by an error, at once, if the storage of `state` takes none.
    /// Waits while the queue is full.
    pub fn submit(&self, batch: Batch, state: &State) -> Commit {
        let (written, written_stage) = stage();
        let (safe, safe_stage) = stage();
        let commit = Commit { written: written_stage, safe: safe_stage };
        if let Some(error) = state.refusal() {
            Waiting { written, safe: Some(safe) }.fail(&error);
            return commit;
        }
        let safe = if state.durability() == Durability::Never {
            safe.complete(Ok(()));
            None
        } else {
            Some(safe)
        };
        if let Err(Request::Commit(_, waiting)) = self.push(Request::Commit(batch, Waiting { written, safe })) {
            // The writer is gone: closed, or failed since the look above.
            waiting.fail(&state.refusal().unwrap_or_else(StorageError::closed));
        }
        commit
    }

    /// Asks the writer to sync and end, after what has been submitted.
    pub fn end(&self) {
        let _the_writer_is_gone = self.push(Request::Close);
    }

    /// Queues a request; gives it back if the writer is gone.
    fn push(&self, request: Request) -> Result<(), Request> {
        let mut queue = self.lock();
        while queue.waiting.len() >= CAPACITY && !queue.closed {
            queue = self.taken.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.closed {
            return Err(request);
        }
        queue.waiting.push(request);
        // The writer sleeps only on an empty queue.
        if queue.waiting.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for requests, but not longer than `time`, and moves all of them to `into`, which is empty.
    pub(crate) fn take(&self, into: &mut Vec<Request>, time: Duration) {
        let nothing = |queue: &mut Queue| queue.waiting.is_empty();
        let (mut queue, _) =
            self.arrived.wait_timeout_while(self.lock(), time, nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.waiting, into);
        self.taken.notify_all();
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Refuses what comes from now on, and tells those who still wait that it will not happen, for `reason`.
    pub fn close(&self, reason: &StorageError) {
        let waiting = {
            let mut queue = self.lock();
            queue.closed = true;
            self.taken.notify_all();
            std::mem::take(&mut queue.waiting)
        };
        for request in waiting {
            if let Request::Commit(_, waiting) = request {
                waiting.fail(reason);
            }
        }
    }
}
