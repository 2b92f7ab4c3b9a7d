//! The database side of the writing thread: commits a group of batches in one transaction, and frees space.

use std::sync::Arc;

use backend_embedded::{DatabaseWriter, Topics};
use broker_core::settings::Durability;
use broker_core::storage::Batch;
use rusqlite::{Connection, TransactionBehavior};

use crate::changes::Changes;
use crate::error::SqliteError;
use crate::log::{self, Log};
use crate::storage::SqliteDatabase;
use crate::{directory, vacuum};

/// The writing thread's view of the database.
pub struct Tables {
    shared: Arc<SqliteDatabase>,
    connection: Connection,
    topics: Topics<i64>,
    /// The latest id of a topic.
    last_id: i64,
    log: Log,
}

impl Tables {
    pub(crate) fn new(shared: Arc<SqliteDatabase>, connection: Connection, topics: Topics<i64>) -> Self {
        let log = Log::new(&shared.config.path, shared.state.reserve().bytes());
        // A row that recovery could not read still occupies its id.
        let stored = connection.query_row("select max(topic_id) from topics", [], |row| row.get::<_, Option<i64>>(0));
        let known = topics.ids().map(|(_, id)| id).max();
        let last_id = stored.ok().flatten().max(known).unwrap_or_default();
        Self { shared, connection, topics, last_id, log }
    }
}

impl DatabaseWriter for Tables {
    type Error = SqliteError;

    const GROUP: usize = 16 << 10;

    /// Commits batches in one transaction; with `always` the commit also syncs them.
    fn write(&mut self, batches: &[Batch]) -> Result<(), SqliteError> {
        let path = &self.shared.readers.path;
        let trouble = |source| SqliteError::sqlite("write to", path, source);
        // An error drops the transaction, which rolls it back. Nothing is written after that.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(trouble)?;
        let mut changes = Changes::new(&transaction, path, &mut self.topics, &mut self.last_id);
        changes.write(batches.iter())?;
        let topics = std::mem::take(&mut changes.topic_ids);
        transaction.commit().map_err(trouble)?;
        // This precedes the confirmation of the batches, so that a read of a confirmed event finds its topic.
        self.shared.topics.apply(topics);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SqliteError> {
        match self.shared.config.durability {
            // The commit synced the log already.
            Durability::Always => Ok(()),
            Durability::Interval | Durability::Never => directory::sync_log(&self.shared.config.path),
        }
    }

    fn maintain(
        &mut self,
        idle: bool,
        _all_synced: bool,
        batches_wait: &dyn Fn() -> bool,
    ) -> Result<bool, SqliteError> {
        let Self { shared, connection, log, .. } = self;
        let full = shared.state.reserve().is_spent();
        if full {
            // The deletions that freed space are in the log. The file can be cut once they are in the database.
            log.shorten(connection, &shared.readers, idle, full)?;
        }
        match vacuum::give_back(connection, &shared.config.path, idle, full, batches_wait) {
            // The transaction was rolled back. It will have more space once more events have been consumed.
            Err(source) if full && log::is_for_later(&source) => {}
            given_back => {
                given_back.map_err(|source| SqliteError::sqlite("give back space of", &shared.readers.path, source))?;
            }
        }
        log.shorten(connection, &shared.readers, idle, full)?;
        shared.state.reserve().look_again();
        Ok(false)
    }
}
