//! The thread that changes the tree: takes all waiting batches, applies them as one, flushes once, syncs once.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use broker_core::name::TopicName;
use broker_core::storage::{Mutation, Place, StorageError, StorageErrorKind};

use crate::changes::Changes;
use crate::config::Durability;
use crate::database::Database;
use crate::error::SledError;
use crate::inbox::{Inbox, Pending, Request};
use crate::mark::Mark;
use crate::names::Names;
use crate::rebuild;
use crate::shared::Shared;

/// How long nothing must come before it looks whether the file is larger than it need be.
const IDLE: Duration = Duration::from_secs(1);

/// Mutations after which what was applied is flushed and synced although more batches wait, so that nobody waits too long. A
/// single batch may have more.
const COMMIT: usize = 8 << 10;

/// Mutations that go into one sled batch. What one batch of the engine has always does; batches of one event are cheaper
/// together, and beyond some hundreds together costs more: sled takes them in no particular order.
const APPLY: usize = 512;

/// The state of the writing thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    database: Arc<Database>,
    names: Names,
    /// When the first flush that is not synced happened.
    unsynced_since: Option<Instant>,
    /// Something was taken out since it was last idle.
    removed: bool,
    mark: Mark,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, database: Arc<Database>, names: Names) -> Self {
        // What an earlier run left behind may be worth giving back.
        let mark = Mark::new(&shared.config.path);
        Self { shared, inbox, database, names, unsynced_since: None, removed: true, mark }
    }

    /// The thread: until it is asked to close.
    pub(crate) fn run(&mut self) {
        let mut requests = Vec::new();
        loop {
            self.inbox.take(&mut requests, self.pause());
            if requests.is_empty() {
                self.idle();
            }
            let mut closing = false;
            let mut group = Vec::new();
            let mut size = 0;
            for request in requests.drain(..) {
                match request {
                    Request::Commit(pending) => {
                        size += pending.batch.mutations.len();
                        group.push(pending);
                        if size >= COMMIT {
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
                if self.shared.failure().is_none() {
                    self.mark.synced(self.names.group, true);
                }
                return;
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
                self.interval().saturating_sub(since.elapsed()).min(IDLE)
            }
            _ => IDLE,
        }
    }

    /// Commits batches together: completes `written` when they are with the operating system, `safe` by the durability.
    fn commit(&mut self, group: Vec<Pending>) {
        let failure = self.shared.failure().cloned();
        let applied = failure.map_or_else(|| self.apply(&group).map_err(|error| self.fail(error)), Err);
        let mut stages = Vec::with_capacity(group.len());
        for Pending { batch, written, safe } in group {
            let events = |mutation: &&Mutation| matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. });
            let places = vec![Place::default(); batch.mutations.iter().filter(events).count()];
            written.complete(applied.clone().map(|()| places));
            stages.push(safe);
        }
        let safe = applied.and_then(|()| match self.shared.config.durability {
            Durability::Always => self.sync(),
            Durability::Interval | Durability::Never => {
                self.unsynced_since.get_or_insert_with(Instant::now);
                Ok(())
            }
        });
        stages.into_iter().flatten().for_each(|stage| stage.complete(safe.clone()));
    }

    /// Applies batches in their order, each whole in one sled batch, and flushes them together.
    fn apply(&mut self, group: &[Pending]) -> Result<(), SledError> {
        let database = Arc::clone(&self.database);
        let mut rest = group;
        while !rest.is_empty() {
            let mut size = 0;
            let enough = rest.iter().position(|pending| {
                size += pending.batch.mutations.len();
                size >= APPLY
            });
            let (some, others) = rest.split_at(enough.map_or(rest.len(), |last| last + 1));
            rest = others;
            self.apply_together(&database, some)
                .map_err(|source| SledError::sled("write to the database", &database.path, source))?;
        }
        database.flush()?;
        self.shared.batches.fetch_add(group.len() as u64, Relaxed);
        Ok(())
    }

    fn apply_together(&mut self, database: &Database, some: &[Pending]) -> sled::Result<()> {
        let mut changes = Changes::new(&database.db, &mut self.names);
        for mutation in some.iter().flat_map(|pending| &pending.batch.mutations) {
            changes.add(mutation)?;
        }
        let (batch, new_topics, removes) = changes.finish();
        self.removed |= removes;
        database.db.apply_batch(batch)?;
        self.announce(new_topics);
        database.tidy_up(some.iter().flat_map(|pending| &pending.batch.mutations).map(changes_of).sum())
    }

    /// Tells those who read of new topics; before anybody is told that their events are written.
    fn announce(&self, new_topics: Vec<(TopicName, u32)>) {
        if !new_topics.is_empty() {
            self.shared.topics.write().unwrap_or_else(PoisonError::into_inner).extend(new_topics);
        }
    }

    /// Syncs; never tried again after it failed: the kernel may have dropped what it could not write, and would report success.
    fn sync(&mut self) -> Result<(), StorageError> {
        self.shared.syncs.fetch_add(1, Relaxed);
        self.unsynced_since = None;
        self.database.sync().map_err(|error| self.fail(error))?;
        self.mark.synced(self.names.group, false);
        Ok(())
    }

    /// Syncs what was flushed and is not synced, unless the storage has failed.
    fn sync_later(&mut self) {
        if self.unsynced_since.is_some() && self.shared.failure().is_none() {
            let _everyone_is_told_by_the_failure = self.sync();
        }
    }

    fn fail(&self, error: SledError) -> StorageError {
        let error = StorageError::from(error);
        self.shared.fail(&error);
        error
    }

    /// Nothing waits: gives space back, if there is much of it.
    fn idle(&mut self) {
        if self.unsynced_since.is_none() && self.shared.failure().is_none() {
            self.mark.synced(self.names.group, true);
        }
        if !std::mem::take(&mut self.removed) || self.shared.failure().is_some() {
            return;
        }
        let rebuilt = rebuild::is_worth_it_when_idle(&self.database)
            .and_then(|worth_it| worth_it.then(|| rebuild::rebuild(&self.shared.config, &self.database)).transpose());
        match rebuilt {
            Ok(Some(new)) => {
                let old = std::mem::replace(&mut self.database, Arc::clone(&new));
                self.shared.replace(Some(new));
                self.unsynced_since = None;
                rebuild::discard(&old.path);
            }
            Ok(None) => {}
            // The old database is as good as before, unless it is the one that failed; then the next write says so.
            Err(error) => tracing::warn!(%error, "giving space back is put off"),
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

/// How many events a mutation is about, at the least one.
fn changes_of(mutation: &Mutation) -> usize {
    match mutation {
        Mutation::Settle { events, .. } | Mutation::Forget { events, .. } => events.len().max(1),
        Mutation::Requeue { events, .. } => events.len().max(1),
        _ => 1,
    }
}
