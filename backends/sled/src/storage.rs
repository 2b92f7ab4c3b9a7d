//! The sled storage: the database underneath [`EmbeddedStorage`].

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use backend_embedded::{Database, EmbeddedStorage, State, TopicIds};
use broker_core::event::Payload;
use broker_core::storage::{ReadKey, Recovery, RecoveryReport, StorageError};
use durable_files::{Lock, SystemFiles, create_dir};

use crate::config::SledConfig;
use crate::database;
use crate::error::SledError;
use crate::writer::Tree;
use crate::{directory, reads, recovery};

/// The space reserved for a full disk: each removal copies a page, and the file grows by whole segments before any is reused.
const RESERVE_BYTES: u64 = 64 << 20;

/// The reserve's share of a small file system, 1/2: in a measurement, removing 7.5 MB of events at once took 5.9 MB.
const RESERVE_PART: u64 = 2;

/// The sled storage; see the crate's documentation.
pub type SledStorage = EmbeddedStorage<SledDatabase>;

/// The state of a [`SledStorage`] that no single thread owns.
#[derive(Debug)]
pub struct SledDatabase {
    pub(crate) config: SledConfig,
    pub(crate) state: Arc<State>,
    /// `None` before recovery and after closing. A read holds the lock until it ends, so closing waits for it.
    pub(crate) open: RwLock<Option<Arc<database::Database>>>,
    pub(crate) topics: TopicIds<u32>,
}

impl SledDatabase {
    fn new(config: SledConfig) -> Self {
        let interval = Duration::from_millis(config.sync_interval_ms);
        let state = State::new(config.path.clone(), config.durability, interval);
        let state = Arc::new(state.with_reserve(RESERVE_BYTES, RESERVE_PART));
        Self { config, state, open: RwLock::default(), topics: TopicIds::default() }
    }

    /// Replaces the open database.
    pub(crate) fn replace(&self, database: Option<Arc<database::Database>>) {
        // The old one is dropped outside the lock, because closing it takes time.
        let old = std::mem::replace(&mut *self.open.write().unwrap_or_else(PoisonError::into_inner), database);
        drop(old);
    }
}

impl Database for SledDatabase {
    const KIND: &'static str = "sled";
    const WRITER_THREAD: &'static str = "sled-write";

    type Config = SledConfig;
    type Writer = Tree;

    fn open(config: SledConfig) -> Result<(Self, Lock), StorageError> {
        config.validate()?;
        let dir = &config.path;
        if !dir.try_exists().map_err(|source| SledError::io("open", dir, source))? {
            create_dir(&SystemFiles, dir)?;
        }
        let mut lock = Lock::acquire_if(&SystemFiles, dir, || directory::look(dir).map(drop))?;
        let database = Self::new(config);
        let dir = &database.config.path;
        database.state.reserve().before_opening();
        lock.sign()?;
        if database.config.clean_on_start {
            directory::clean(dir)?;
        }
        Ok((database, lock))
    }

    fn recover(self: &Arc<Self>, recovery: &mut dyn Recovery) -> Result<(RecoveryReport, Tree), StorageError> {
        let (report, names, database) = recovery::recover(self, recovery)?;
        self.topics.apply(names.topics.ids().map(|(name, id)| (name, Some(id))));
        self.replace(Some(Arc::clone(&database)));
        Ok((report, Tree::new(self.clone(), database, names)))
    }

    fn read(&self, keys: &[ReadKey]) -> Result<Vec<Option<Payload>>, StorageError> {
        reads::read(self, keys)
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn bytes(&self) -> u64 {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.map_or(0, |database| directory::bytes_below(&database.path))
    }

    fn close(&self) {
        self.replace(None);
    }
}
