//! The SQLite database below [`EmbeddedStorage`].

use std::sync::Arc;
use std::time::Duration;

use backend_embedded::{Database, EmbeddedStorage, State, TopicIds};
use broker_core::event::Payload;
use broker_core::storage::{ReadKey, Recovery, RecoveryReport, StorageError};
use durable_files::{Lock, SystemFiles, create_dir};

use crate::config::SqliteConfig;
use crate::error::SqliteError;
use crate::read_pool::ReadPool;
use crate::writer::Tables;
use crate::{connection, directory, reads, recovery};

/// The SQLite storage; see the crate's documentation.
pub type SqliteStorage = EmbeddedStorage<SqliteDatabase>;

/// The state of a [`SqliteStorage`] that its threads share.
#[derive(Debug)]
pub struct SqliteDatabase {
    pub(crate) config: SqliteConfig,
    pub(crate) state: Arc<State>,
    /// The pool of reading connections.
    pub(crate) readers: ReadPool,
    pub(crate) topics: TopicIds<i64>,
}

impl SqliteDatabase {
    fn new(config: SqliteConfig) -> Self {
        let interval = Duration::from_millis(config.sync_interval_ms);
        let state = State::new(config.path.clone(), config.durability, interval);
        let state = Arc::new(state.with_reserve(connection::RESERVE_BYTES, 4));
        let readers = ReadPool::new(directory::database(&config.path));
        Self { config, state, readers, topics: TopicIds::default() }
    }
}

impl Database for SqliteDatabase {
    const KIND: &'static str = "sqlite";
    const WRITER_THREAD: &'static str = "sqlite-write";

    type Config = SqliteConfig;
    type Writer = Tables;

    fn open(config: SqliteConfig) -> Result<(Self, Lock), StorageError> {
        config.validate()?;
        let dir = &config.path;
        if !dir.try_exists().map_err(|source| SqliteError::io("open", dir, source))? {
            create_dir(&SystemFiles, dir)?;
        }
        let look = || {
            if !config.clean_on_start {
                directory::look_for_orphan(dir)?;
            }
            directory::look(dir).map(drop)
        };
        let mut lock = Lock::acquire_if(&SystemFiles, dir, look)?;
        let database = Self::new(config);
        let dir = &database.config.path;
        database.state.reserve().before_opening();
        lock.sign()?;
        if database.config.clean_on_start {
            directory::clean(dir)?;
        }
        Ok((database, lock))
    }

    fn recover(self: &Arc<Self>, recovery: &mut dyn Recovery) -> Result<(RecoveryReport, Tables), StorageError> {
        let (report, topics, connection) = recovery::recover(self, recovery)?;
        self.topics.apply(topics.ids().map(|(name, id)| (name, Some(id))));
        Ok((report, Tables::new(self.clone(), connection, topics)))
    }

    fn read(&self, keys: &[ReadKey]) -> Result<Vec<Option<Payload>>, StorageError> {
        self.readers.with(|connection| reads::read(self, connection, keys))
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn bytes(&self) -> u64 {
        // This reads metadata only, because opening and closing the file would release SQLite's locks on it.
        let size = |path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        directory::files(&self.config.path).into_iter().map(size).sum()
    }

    fn close(&self) {
        self.readers.close();
    }
}
