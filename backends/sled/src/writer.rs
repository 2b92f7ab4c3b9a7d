//! The writing thread's part: applies groups of batches, flushes, syncs, and compacts when idle.

use std::sync::Arc;

use backend_embedded::DatabaseWriter;
use broker_core::storage::{Batch, Mutation};

use crate::changes::Changes;
use crate::database::Database;
use crate::error::SledError;
use crate::names::Names;
use crate::storage::SledDatabase;
use crate::sync_mark::SyncMark;
use crate::{compaction, directory};

/// The mutations after which a sled batch is applied. A batch of the engine is never split. Small batches are cheaper together, but
/// beyond some hundreds of mutations they cost more, because sled applies them in no particular order.
const APPLY: usize = 512;

/// The writing thread's part of the database.
pub struct Tree {
    shared: Arc<SledDatabase>,
    database: Arc<Database>,
    names: Names,
    /// Whether anything was removed since the writer was last idle.
    removed: bool,
    mark: SyncMark,
}

impl Tree {
    pub(crate) fn new(shared: Arc<SledDatabase>, database: Arc<Database>, names: Names) -> Self {
        // `removed` starts as true, because an earlier run may have left garbage.
        let mark = SyncMark::new(&shared.config.path);
        Self { shared, database, names, removed: true, mark }
    }

    fn apply_together(&mut self, database: &Database, some: &[Batch]) -> sled::Result<()> {
        let mut changes = Changes::new(&database.db, &mut self.names);
        for mutation in some.iter().flat_map(|batch| &batch.mutations) {
            changes.add(mutation)?;
        }
        let (batch, topics, removes) = changes.finish();
        self.removed |= removes;
        database.db.apply_batch(batch)?;
        // Applied before the batches count as written, so that a reader that knows an event also finds its topic.
        self.shared.topics.apply(topics);
        database.tidy_up(some.iter().flat_map(|batch| &batch.mutations).map(changes_of).sum())
    }
}

impl DatabaseWriter for Tree {
    type Error = SledError;

    const GROUP: usize = 8 << 10;

    /// Applies batches in order, each within one sled batch, and flushes them together.
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

    /// Compacts the database if the writer is idle or the disk is full, and most of the file is garbage.
    fn maintain(&mut self, idle: bool, all_synced: bool, _batches_wait: &dyn Fn() -> bool) -> Result<bool, SledError> {
        let reserve = self.shared.state.reserve();
        reserve.look_again();
        let full = reserve.is_spent();
        if !idle && !full {
            return Ok(false);
        }
        if idle && all_synced {
            self.mark.synced(self.names.group, true);
        }
        if !std::mem::take(&mut self.removed) {
            return Ok(false);
        }
        let worth_it = if full {
            compaction::is_worth_it_when_full(&self.database, reserve.free())
        } else {
            compaction::is_worth_it_when_idle(&self.database)
        };
        let rebuilt = worth_it.and_then(|worth_it| {
            worth_it.then(|| compaction::compact(&self.shared.config, &self.database)).transpose()
        });
        match rebuilt {
            Ok(Some(new)) => {
                let old = std::mem::replace(&mut self.database, Arc::clone(&new));
                self.shared.replace(Some(new));
                compaction::discard(&old.path);
                self.shared.state.reserve().look_again();
                Ok(true)
            }
            Ok(None) => {
                // On a full disk, room for the copy may appear later.
                self.removed = full;
                Ok(false)
            }
            // The old database is unchanged. If it caused the failure, the next write fails too.
            Err(error) if directory::is_current(&self.shared.config.path, &self.database.path) => {
                tracing::warn!(%error, "compaction failed; the database is kept as it is");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn finish(&mut self) {
        self.mark.synced(self.names.group, true);
    }
}

/// The number of events in a mutation, at least one.
fn changes_of(mutation: &Mutation) -> usize {
    match mutation {
        Mutation::Settle { events, .. } | Mutation::Forget { events, .. } => events.len().max(1),
        Mutation::Redeliver { events, .. } => events.len().max(1),
        _ => 1,
    }
}
