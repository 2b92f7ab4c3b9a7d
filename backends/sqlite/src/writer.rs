//! What the writing thread does with SQLite: a transaction for a group of batches, giving space back.

use std::sync::Arc;
use std::sync::PoisonError;

use backend_embedded::{Database, Durability};
use broker_core::name::TopicName;
use broker_core::storage::Batch;
use rusqlite::{Connection, TransactionBehavior};

use crate::changes::Changes;
use crate::error::SqliteError;
use crate::names::Names;
use crate::shared::Shared;
use crate::{directory, space};

/// The database, as the writing thread has it.
pub(crate) struct Tables {
    shared: Arc<Shared>,
    connection: Connection,
    names: Names,
}

impl Tables {
    pub(crate) fn new(shared: Arc<Shared>, connection: Connection, names: Names) -> Self {
        Self { shared, connection, names }
    }

    /// Tells those who read of new topics; before anybody is told that their events are written.
    fn announce(&self, new_topics: Vec<(TopicName, i64)>) {
        if !new_topics.is_empty() {
            self.shared.topics.write().unwrap_or_else(PoisonError::into_inner).extend(new_topics);
        }
    }
}

impl Database for Tables {
    type Error = SqliteError;

    const GROUP: usize = 16 << 10;

    /// Commits batches in one transaction, which with `always` means that they are synced.
    fn write(&mut self, batches: &[Batch]) -> Result<(), SqliteError> {
        let path = &self.shared.readers.path;
        let trouble = |source| SqliteError::sqlite("write to", path, source);
        // Dropping it on an error rolls back; nothing is written after that anyway.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(trouble)?;
        let mut changes = Changes::new(&transaction, path, &mut self.names);
        changes.write(batches.iter())?;
        let new_topics = std::mem::take(&mut changes.new_topics);
        transaction.commit().map_err(trouble)?;
        self.announce(new_topics);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SqliteError> {
        match self.shared.config.durability {
            // The commit did it.
            Durability::Always => Ok(()),
            Durability::Interval | Durability::Never => directory::sync_log(&self.shared.config.path),
        }
    }

    fn look_after(
        &mut self,
        idle: bool,
        _all_synced: bool,
        somebody_waits: &dyn Fn() -> bool,
    ) -> Result<bool, SqliteError> {
        let given_back = space::give_back(&self.connection, &self.shared.config.path, idle, somebody_waits);
        let path = &self.shared.readers.path;
        given_back.map(|()| false).map_err(|source| SqliteError::sqlite("give back space of", path, source))
    }
}
