//! The loop of the writing thread: it takes every waiting batch, writes them as a group, syncs once, and completes their stages.
//!
//! ```text
//!   queue:  a b c ──▶ write [a b c] ──▶ `written` of a, b, c ──▶ sync ──▶ `durable` of a, b, c
//!           d e       (waits)
//! ```

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use broker_core::storage::{Batch, Mutation, Place, StorageError, StorageErrorKind};

use crate::state::State;
use crate::write_queue::{Request, Waiting, WriteQueue};
use broker_core::settings::Durability;

/// The time between two rounds of maintenance.
const TICK: Duration = Duration::from_secs(1);

/// The writing thread's side of an embedded database.
///
/// After a failed `write` or `sync` no method is called again. A failed sync is never retried: the kernel may have dropped the
/// data and would report success.
pub trait DatabaseWriter: Send + 'static {
    /// Its errors.
    type Error: Into<StorageError>;

    /// The number of mutations at which a group is committed even though more batches wait. It bounds a group's memory and its
    /// latency. A single batch may exceed it.
    const GROUP: usize;

    /// The same limit on a full disk, where a group's log has to fit into the space left.
    const GROUP_WHEN_FULL: usize = 64;

    /// Writes batches in order, each atomically. Afterwards they survive the end of the process.
    ///
    /// # Errors
    /// When the outcome of any batch is uncertain.
    fn write(&mut self, batches: &[Batch]) -> Result<(), Self::Error>;

    /// Makes everything written survive a power failure. Called after each group with `durability = "always"`; a no-op if `write`
    /// already syncs.
    ///
    /// # Errors
    /// When the outcome is uncertain.
    fn sync(&mut self) -> Result<(), Self::Error>;

    /// Performs maintenance such as freeing space, about once a second. Returns whether it has synced everything written.
    ///
    /// `idle`: no batch has arrived since the last round. `all_synced`: everything written is synced. `batches_wait` returns true
    /// once batches wait, and maintenance should stop.
    ///
    /// # Errors
    /// When the database cannot be used any more.
    fn maintain(&mut self, idle: bool, all_synced: bool, batches_wait: &dyn Fn() -> bool) -> Result<bool, Self::Error>;

    /// Called last, after everything is written and synced.
    fn finish(&mut self) {}
}

/// The writing thread's state.
pub(crate) struct Writer<D> {
    database: D,
    state: Arc<State>,
    queue: Arc<WriteQueue>,
    /// The time of the first unsynced write.
    unsynced_since: Option<Instant>,
    maintained_at: Instant,
}

impl<D: DatabaseWriter> Writer<D> {
    /// Starts the thread called `name`. It ends after [`WriteQueue::end`].
    ///
    /// # Errors
    /// When the operating system cannot start a thread.
    pub(crate) fn start(
        name: &str,
        database: D,
        state: Arc<State>,
        queue: Arc<WriteQueue>,
    ) -> Result<JoinHandle<()>, StorageError> {
        let mut writer = Self { database, state, queue, unsynced_since: None, maintained_at: Instant::now() };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || writer.run());
        thread.map_err(|error| {
            StorageError::new(StorageErrorKind::Failed, format!("cannot start the thread {name}")).with_source(error)
        })
    }

    fn run(&mut self) {
        let mut requests = Vec::new();
        loop {
            self.queue.take(&mut requests, self.pause());
            let idle = requests.is_empty();
            let mut closing = false;
            let mut group = Group::default();
            let most = if self.state.reserve().is_spent() { D::GROUP_WHEN_FULL } else { D::GROUP };
            for request in requests.drain(..) {
                match request {
                    Request::Commit(batch, waiting) => {
                        group.add(batch, waiting);
                        if group.mutations >= most {
                            self.commit(std::mem::take(&mut group));
                        }
                    }
                    Request::Close => closing = true,
                }
            }
            if !group.batches.is_empty() {
                self.commit(group);
            }
            if self.sync_is_due() || closing {
                self.sync_later();
            }
            if closing {
                if self.state.failure().is_none() {
                    self.database.finish();
                }
                return;
            }
            if self.maintained_at.elapsed() >= TICK {
                self.maintain(idle);
            }
        }
    }

    fn sync_is_due(&self) -> bool {
        self.state.durability() == Durability::Interval
            && self.unsynced_since.is_some_and(|since| since.elapsed() >= self.state.sync_interval())
    }

    /// The longest wait for requests.
    fn pause(&self) -> Duration {
        match self.unsynced_since {
            Some(since) if self.state.durability() == Durability::Interval => {
                self.state.sync_interval().saturating_sub(since.elapsed()).min(TICK)
            }
            _ => TICK,
        }
    }

    /// Commits a group: completes `written` once it is written, and `durable` at the point that the durability promises.
    fn commit(&mut self, group: Group) {
        let Group { batches, waiting, .. } = group;
        let written = match self.state.failure().cloned() {
            Some(error) => Err(error),
            None => match self.state.reserve().before_writing(bytes(&batches)) {
                Ok(()) => self.database.write(&batches).map_err(|error| self.fail(error)),
                Err(error) => {
                    self.state.fail(&error);
                    Err(error)
                }
            },
        };
        if written.is_ok() {
            self.state.count_batches(batches.len());
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        let mut stages = Vec::with_capacity(waiting.len());
        for (batch, waiting) in batches.iter().zip(waiting) {
            let events = |mutation: &&Mutation| matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. });
            let places = vec![Place::default(); batch.mutations.iter().filter(events).count()];
            waiting.written.complete(written.clone().map(|()| places));
            stages.push(waiting.durable);
        }
        let durable = written.and_then(|()| match self.state.durability() {
            Durability::Always => self.sync(),
            Durability::Interval | Durability::Never => Ok(()),
        });
        stages.into_iter().flatten().for_each(|stage| stage.complete(durable.clone()));
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.state.count_sync();
        self.unsynced_since = None;
        self.database.sync().map_err(|error| self.fail(error))
    }

    /// Syncs unsynced writes, unless the storage has failed.
    fn sync_later(&mut self) {
        if self.unsynced_since.is_some() && self.state.failure().is_none() {
            let _the_state_keeps_the_failure = self.sync();
        }
    }

    fn maintain(&mut self, idle: bool) {
        self.maintained_at = Instant::now();
        if self.state.failure().is_some() {
            return;
        }
        let queue = &self.queue;
        match self.database.maintain(idle, self.unsynced_since.is_none(), &|| !queue.is_empty()) {
            Ok(true) => self.unsynced_since = None,
            Ok(false) => {}
            Err(error) => {
                self.fail(error);
            }
        }
    }

    fn fail(&self, error: D::Error) -> StorageError {
        let error = error.into();
        self.state.fail(&error);
        error
    }
}

impl<D> Drop for Writer<D> {
    /// Fails the waiting batches, even after a panic, so that no stage stays incomplete.
    fn drop(&mut self) {
        let gone = if std::thread::panicking() {
            let error = StorageError::new(StorageErrorKind::Failed, "the writing thread panicked");
            self.state.fail(&error);
            error
        } else {
            StorageError::closed()
        };
        self.queue.close(&gone);
    }
}

/// The approximate size of the events and large cursors in `batches`, for the reserve.
fn bytes(batches: &[Batch]) -> u64 {
    /// The names, times and checksum stored with an event.
    const BESIDES: usize = 100;
    let of = |mutation: &Mutation| match mutation {
        Mutation::Publish(event) | Mutation::Rewrite { event, .. } => event.payload.len() + BESIDES,
        Mutation::Cursor { source, value } if value.len() > 4096 => source.len() + value.len(),
        _ => 0,
    };
    batches.iter().flat_map(|batch| &batch.mutations).map(of).sum::<usize>() as u64
}

/// Batches that are committed together.
#[derive(Default)]
struct Group {
    batches: Vec<Batch>,
    waiting: Vec<Waiting>,
    mutations: usize,
}

impl Group {
    fn add(&mut self, batch: Batch, waiting: Waiting) {
        self.mutations += batch.mutations.len();
        self.batches.push(batch);
        self.waiting.push(waiting);
    }
}
