//! The thread that writes: takes all waiting batches and commits them in one transaction.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use broker_core::name::TopicName;
use broker_core::storage::{Mutation, Place, StorageError, StorageErrorKind};
use rusqlite::{Connection, TransactionBehavior};

use crate::changes::Changes;
use crate::config::Durability;
use crate::error::SqliteError;
use crate::inbox::{Inbox, Pending, Request};
use crate::names::Names;
use crate::shared::Shared;
use crate::{directory, space};

/// How often it looks whether the file is larger than it need be; if nothing comes for so long, it takes its time for that.
const TICK: Duration = Duration::from_secs(1);

/// Mutations after which a group is committed although more batches wait, so that what is in memory for it stays small and
/// nobody waits too long. A single batch may have more.
const GROUP: usize = 16 << 10;

/// The state of the writing thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    connection: Connection,
    names: Names,
    /// When the first commit that is not synced happened.
    unsynced_since: Option<Instant>,
    /// When it last looked after the space.
    looked_at: Instant,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, connection: Connection, names: Names) -> Self {
        Self { shared, inbox, connection, names, unsynced_since: None, looked_at: Instant::now() }
    }

    /// The thread: until it is asked to close.
    pub(crate) fn run(&mut self) {
        let mut requests = Vec::new();
        loop {
            self.inbox.take(&mut requests, self.pause());
            let idle = requests.is_empty();
            let mut closing = false;
            let mut group = Vec::new();
            let mut size = 0;
            for request in requests.drain(..) {
                match request {
                    Request::Commit(pending) => {
                        size += pending.batch.mutations.len();
                        group.push(pending);
                        if size >= GROUP {
                            self.commit(std::mem::take(&mut group));
                            size = 0;
                        }
                    }
                    Request::Close => closing = true,
                }
            }
            if !group.is_empty() {
                self.commit(group);
            }
            let due = self.unsynced_since.is_some_and(|since| since.elapsed() >= self.interval());
            if (due && self.shared.config.durability == Durability::Interval) || closing {
                self.sync_later();
            }
            if closing {
                return;
            }
            if self.looked_at.elapsed() >= TICK {
                self.give_back(idle);
            }
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.shared.config.sync_interval_ms)
    }

    /// How long to wait for requests.
    fn pause(&self) -> Duration {
        match self.unsynced_since {
            Some(since) if self.shared.config.durability == Durability::Interval => {
                self.interval().saturating_sub(since.elapsed()).min(TICK)
            }
            _ => TICK,
        }
    }

    /// Commits batches together, which completes `written`, and with `always` means that they are synced.
    fn commit(&mut self, group: Vec<Pending>) {
        let failure = self.shared.failure().cloned();
        let done = failure.map_or_else(|| self.write(&group).map_err(|error| self.fail(error)), Err);
        let mut stages = Vec::with_capacity(group.len());
        for Pending { batch, written, safe } in group {
            let events = |mutation: &&Mutation| matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. });
            let places = vec![Place::default(); batch.mutations.iter().filter(events).count()];
            written.complete(done.clone().map(|()| places));
            stages.push(safe);
        }
        if done.is_ok() && self.shared.config.durability != Durability::Always {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        stages.into_iter().flatten().for_each(|stage| stage.complete(done.clone()));
    }

    fn write(&mut self, group: &[Pending]) -> Result<(), SqliteError> {
        let path = &self.shared.readers.path;
        let trouble = |source| SqliteError::sqlite("write to", path, source);
        // Dropping it on an error rolls back; nothing is written after that anyway.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(trouble)?;
        let mut changes = Changes::new(&transaction, path, &mut self.names);
        changes.write(group.iter().map(|pending| &pending.batch))?;
        let new_topics = std::mem::take(&mut changes.new_topics);
        transaction.commit().map_err(trouble)?;
        if self.shared.config.durability == Durability::Always {
            self.shared.syncs.fetch_add(1, Relaxed);
        }
        self.announce(new_topics);
        self.shared.batches.fetch_add(group.len() as u64, Relaxed);
        Ok(())
    }

    /// Tells those who read of new topics; before anybody is told that their events are written.
    fn announce(&self, new_topics: Vec<(TopicName, i64)>) {
        if !new_topics.is_empty() {
            self.shared.topics.write().unwrap_or_else(PoisonError::into_inner).extend(new_topics);
        }
    }

    /// Syncs what was committed and is not synced, unless the storage has failed. Never tried again after it failed: the
    /// kernel may have dropped what it could not write, and would report success.
    fn sync_later(&mut self) {
        if self.unsynced_since.take().is_some() && self.shared.failure().is_none() {
            self.shared.syncs.fetch_add(1, Relaxed);
            if let Err(error) = directory::sync_log(&self.shared.config.path) {
                self.fail(error);
            }
        }
    }

    fn fail(&self, error: SqliteError) -> StorageError {
        let error = StorageError::from(error);
        self.shared.fail(&error);
        error
    }

    fn give_back(&mut self, idle: bool) {
        self.looked_at = Instant::now();
        if self.shared.failure().is_some() {
            return;
        }
        let dir = &self.shared.config.path;
        if let Err(source) = space::give_back(&self.connection, dir, idle, || !self.inbox.is_empty()) {
            self.fail(SqliteError::sqlite("give back space of", &self.shared.readers.path, source));
        }
    }
}

impl Drop for Writer {
    /// Also when the thread panics: nobody must wait for what will not happen.
    fn drop(&mut self) {
        let gone = if std::thread::panicking() {
            let error = StorageError::new(StorageErrorKind::Failed, "the writing thread has panicked");
            self.shared.fail(&error);
            error
        } else {
            StorageError::closed()
        };
        for request in self.inbox.close() {
            if let Request::Commit(Pending { written, safe, .. }) = request {
                written.complete(Err(gone.clone()));
                safe.into_iter().for_each(|safe| safe.complete(Err(gone.clone())));
            }
        }
    }
}
