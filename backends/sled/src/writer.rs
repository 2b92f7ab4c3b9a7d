//! What the writing thread does with sled: applies batches, flushes, syncs, gives space back.

use std::sync::Arc;
use std::sync::PoisonError;

use backend_embedded::Database as Writes;
use broker_core::name::TopicName;
use broker_core::storage::{Batch, Mutation};

use crate::changes::Changes;
use crate::database::Database;
use crate::error::SledError;
use crate::mark::Mark;
use crate::names::Names;
use crate::rebuild;
use crate::shared::Shared;

/// Mutations that go into one sled batch. What one batch of the engine has always does; batches of one event are cheaper
/// together, and beyond some hundreds together costs more: sled takes them in no particular order.
const APPLY: usize = 512;

/// The database, as the writing thread has it.
pub(crate) struct Tree {
    shared: Arc<Shared>,
    database: Arc<Database>,
    names: Names,
    /// Something was taken out since it was last idle.
    removed: bool,
    mark: Mark,
}

impl Tree {
    pub(crate) fn new(shared: Arc<Shared>, database: Arc<Database>, names: Names) -> Self {
        // What an earlier run left behind may be worth giving back.
        let mark = Mark::new(&shared.config.path);
        Self { shared, database, names, removed: true, mark }
    }

    fn apply_together(&mut self, database: &Database, some: &[Batch]) -> sled::Result<()> {
        let mut changes = Changes::new(&database.db, &mut self.names);
        for mutation in some.iter().flat_map(|batch| &batch.mutations) {
            changes.add(mutation)?;
        }
        let (batch, new_topics, removes) = changes.finish();
        self.removed |= removes;
        database.db.apply_batch(batch)?;
        self.announce(new_topics);
        database.tidy_up(some.iter().flat_map(|batch| &batch.mutations).map(changes_of).sum())
    }

    /// Tells those who read of new topics; before anybody is told that their events are written.
    fn announce(&self, new_topics: Vec<(TopicName, u32)>) {
        if !new_topics.is_empty() {
            self.shared.topics.write().unwrap_or_else(PoisonError::into_inner).extend(new_topics);
        }
    }
}

impl Writes for Tree {
    type Error = SledError;

    const GROUP: usize = 8 << 10;

    /// Applies batches in their order, each whole in one sled batch, and flushes them together.
    fn write(&mut self, batches: &[Batch]) -> Result<(), SledError> {
        let database = Arc::clone(&self.database);
        let mut rest = batches;
        while !rest.is_empty() {
            let mut size = 0;
            let enough = rest.iter().position(|batch| {
                size += batch.mutations.len();
                size >= APPLY
            });
            let (some, others) = rest.split_at(enough.map_or(rest.len(), |last| last + 1));
            rest = others;
            self.apply_together(&database, some)
                .map_err(|source| SledError::sled("write to the database", &database.path, source))?;
        }
        database.flush()
    }

    fn sync(&mut self) -> Result<(), SledError> {
        self.database.sync()?;
        self.mark.synced(self.names.group, false);
        Ok(())
    }

    /// When nothing waits: gives space back, if there is much of it.
    fn look_after(
        &mut self,
        idle: bool,
        all_synced: bool,
        _somebody_waits: &dyn Fn() -> bool,
    ) -> Result<bool, SledError> {
        if !idle {
            return Ok(false);
        }
        if all_synced {
            self.mark.synced(self.names.group, true);
        }
        if !std::mem::take(&mut self.removed) {
            return Ok(false);
        }
        let rebuilt = rebuild::is_worth_it_when_idle(&self.database)
            .and_then(|worth_it| worth_it.then(|| rebuild::rebuild(&self.shared.config, &self.database)).transpose());
        match rebuilt {
            Ok(Some(new)) => {
                let old = std::mem::replace(&mut self.database, Arc::clone(&new));
                self.shared.replace(Some(new));
                rebuild::discard(&old.path);
                Ok(true)
            }
            Ok(None) => Ok(false),
            // The old database is as good as before, unless it is the one that failed; then the next write says so.
            Err(error) => {
                tracing::warn!(%error, "giving space back is put off");
                Ok(false)
            }
        }
    }

    fn finish(&mut self) {
        self.mark.synced(self.names.group, true);
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
