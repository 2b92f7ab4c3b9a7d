//! The bounded queue into the writing thread, which takes every waiting batch at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::storage::{Batch, Commit, Completer, Place, StorageError, stage};

use crate::state::State;
use broker_core::settings::Durability;

/// The most waiting requests. The engine submits at most [`broker_core::storage::MAX_OUTSTANDING`] batches per shard, so the queue
/// has room for 128 shards; beyond that, [`WriteQueue::submit`] waits until the writer takes the queue.
const CAPACITY: usize = 128 * broker_core::storage::MAX_OUTSTANDING;

/// A request to the writer.
#[derive(Debug)]
pub(crate) enum Request {
    /// Commits a batch.
    Commit(Batch, Waiting),
    /// Syncs and ends the thread.
    Close,
}

/// The incomplete stages of a batch.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) written: Completer<Vec<Place>>,
    /// `None` if the stage is already complete.
    pub(crate) durable: Option<Completer<()>>,
}

impl Waiting {
    /// Fails both stages.
    pub(crate) fn fail(self, error: &StorageError) {
        self.written.complete(Err(error.clone()));
        self.durable.into_iter().for_each(|durable| durable.complete(Err(error.clone())));
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Request>,
    closed: bool,
}

/// The queue: many threads submit requests, the writer takes them.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    queue: Mutex<Queue>,
    arrived: Condvar,
    taken: Condvar,
}

impl WriteQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a batch and returns its stages, which have already failed if the storage is closed or out of service. Waits while the
    /// queue is full.
    pub(crate) fn submit(&self, batch: Batch, state: &State) -> Commit {
        let (written, written_stage) = stage();
        let (durable, durable_stage) = stage();
        let commit = Commit { written: written_stage, durable: durable_stage };
        if let Some(error) = state.refusal() {
            Waiting { written, durable: Some(durable) }.fail(&error);
            return commit;
        }
        let durable = if state.durability() == Durability::Never {
            durable.complete(Ok(()));
            None
        } else {
            Some(durable)
        };
        if let Err(Request::Commit(_, waiting)) = self.push(Request::Commit(batch, Waiting { written, durable })) {
            // The writer has ended: closed, or failed since the check above.
            waiting.fail(&state.refusal().unwrap_or_else(StorageError::closed));
        }
        commit
    }

    /// Asks the writer to sync and end after the batches submitted so far.
    pub(crate) fn end(&self) {
        let _the_writer_has_ended = self.push(Request::Close);
    }

    /// Queues a request; returns it if the writer has ended.
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

    /// Waits up to `time` for requests, and moves all of them to `into`, which is empty.
    pub(crate) fn take(&self, into: &mut Vec<Request>, time: Duration) {
        let nothing = |queue: &mut Queue| queue.waiting.is_empty();
        let (mut queue, _) =
            self.arrived.wait_timeout_while(self.lock(), time, nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.waiting, into);
        self.taken.notify_all();
    }

    /// Whether no request is waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Refuses further requests, and fails the waiting ones with `reason`.
    pub(crate) fn close(&self, reason: &StorageError) {
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
