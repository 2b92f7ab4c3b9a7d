//! The loop of the thread that writes: takes all waiting batches, has them written as a group, synced once, and tells those who wait.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use broker_core::storage::{Batch, Mutation, Place, StorageError, StorageErrorKind};

use crate::inbox::{Inbox, Request, Waiting};
use crate::settings::Durability;
use crate::state::State;

/// How often the database is looked after.
const TICK: Duration = Duration::from_secs(1);

/// What an embedded database does for its [`Writer`], on the writer's thread.
///
/// After `write` or `sync` has failed nothing is asked of it any more: a failed sync is never tried again, since the kernel may have
/// dropped what it could not write, and would report success.
pub trait Database: Send + 'static {
    /// What goes wrong.
    type Error: Into<StorageError>;

    /// Mutations after which a group is committed although more batches wait, so that what is in memory for it stays small and
    /// nobody waits too long. A single batch may have more.
    const GROUP: usize;

    /// Writes batches in their order: afterwards they survive the end of the process, and each is there as a whole or not at
    /// all.
    ///
    /// # Errors
    /// When that is not certain of all of them.
    fn write(&mut self, batches: &[Batch]) -> Result<(), Self::Error>;

    /// Makes all that was written survive a power failure. Called after each group with `durability = "always"`; has nothing to do
    /// where `write` did that already.
    ///
    /// # Errors
    /// When that is not certain.
    fn sync(&mut self) -> Result<(), Self::Error>;

    /// Gives space back and the like, once a second or so. `idle`: nothing has been asked for meanwhile; `all_synced`: nothing
    /// written is unsynced; `somebody_waits` says when to stop. Returns whether it has synced all that was written.
    ///
    /// # Errors
    /// When the database is of no use any more.
    fn look_after(
        &mut self,
        idle: bool,
        all_synced: bool,
        somebody_waits: &dyn Fn() -> bool,
    ) -> Result<bool, Self::Error>;

    /// All is written and synced, and nothing more comes.
    fn finish(&mut self) {}
}

/// The writing thread's state.
pub struct Writer<D> {
    database: D,
    state: Arc<State>,
    inbox: Arc<Inbox>,
    /// When the first write that is not synced happened.
    unsynced_since: Option<Instant>,
    /// The time between two syncs with `durability = "interval"`.
    interval: Duration,
    looked_after: Instant,
}

impl<D: Database> Writer<D> {
    /// Starts the thread called `name`. It ends after [`Inbox::end`].
    ///
    /// # Errors
    /// When the operating system has no thread for it.
    pub fn start(
        name: &str,
        database: D,
        state: Arc<State>,
        inbox: Arc<Inbox>,
        interval: Duration,
    ) -> Result<JoinHandle<()>, StorageError> {
        let mut writer = Self { database, state, inbox, unsynced_since: None, interval, looked_after: Instant::now() };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || writer.run());
        thread.map_err(|error| {
            StorageError::new(StorageErrorKind::Failed, format!("cannot start the thread {name}")).with_source(error)
        })
    }

    fn run(&mut self) {
        let mut requests = Vec::new();
        loop {
            self.inbox.take(&mut requests, self.pause());
            let idle = requests.is_empty();
            let mut closing = false;
            let mut group = Group::default();
            for request in requests.drain(..) {
                match request {
                    Request::Commit(batch, waiting) => {
                        group.add(batch, waiting);
                        if group.mutations >= D::GROUP {
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
            if self.looked_after.elapsed() >= TICK {
                self.look_after(idle);
            }
        }
    }

    fn sync_is_due(&self) -> bool {
        self.state.durability() == Durability::Interval
            && self.unsynced_since.is_some_and(|since| since.elapsed() >= self.interval)
    }

    /// How long to wait for requests.
    fn pause(&self) -> Duration {
        match self.unsynced_since {
            Some(since) if self.state.durability() == Durability::Interval => {
                self.interval.saturating_sub(since.elapsed()).min(TICK)
            }
            _ => TICK,
        }
    }

    /// Commits batches together: completes `written` when they are written, `safe` by the durability.
    fn commit(&mut self, group: Group) {
        let Group { batches, waiting, .. } = group;
        let written = match self.state.failure().cloned() {
            Some(error) => Err(error),
            None => self.database.write(&batches).map_err(|error| self.fail(error)),
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
            stages.push(waiting.safe);
        }
        let safe = written.and_then(|()| match self.state.durability() {
            Durability::Always => self.sync(),
            Durability::Interval | Durability::Never => Ok(()),
        });
        stages.into_iter().flatten().for_each(|stage| stage.complete(safe.clone()));
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.state.count_sync();
        self.unsynced_since = None;
        self.database.sync().map_err(|error| self.fail(error))
    }

    /// Syncs what was written and is not synced, unless the storage has failed.
    fn sync_later(&mut self) {
        if self.unsynced_since.is_some() && self.state.failure().is_none() {
            let _everyone_is_told_by_the_failure = self.sync();
        }
    }

    fn look_after(&mut self, idle: bool) {
        self.looked_after = Instant::now();
        if self.state.failure().is_some() {
            return;
        }
        let inbox = &self.inbox;
        match self.database.look_after(idle, self.unsynced_since.is_none(), &|| !inbox.is_empty()) {
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
    /// Also when the thread panics: nobody must wait for what will not happen.
    fn drop(&mut self) {
        let gone = if std::thread::panicking() {
            let error = StorageError::new(StorageErrorKind::Failed, "the writing thread has panicked");
            self.state.fail(&error);
            error
        } else {
            StorageError::closed()
        };
        self.inbox.close(&gone);
    }
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
