//! What the threads of a storage share.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use backend_embedded::State;
use broker_core::name::TopicName;
use broker_core::storage::StorageFigures;

use crate::config::SqliteConfig;
use crate::directory;
use crate::readers::Readers;

/// The state that is not owned by one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SqliteConfig,
    pub(crate) state: Arc<State>,
    /// The connections for reading.
    pub(crate) readers: Readers,
    /// The numbers of topics, for those who read.
    pub(crate) topics: RwLock<HashMap<TopicName, i64>>,
}

impl Shared {
    pub(crate) fn new(config: SqliteConfig) -> Self {
        let state = Arc::new(State::new(config.path.clone(), config.durability));
        Self { readers: Readers::new(directory::database(&config.path)), config, state, topics: RwLock::default() }
    }

    pub(crate) fn figures(&self) -> StorageFigures {
        // Sizes only: to open and close the file beside SQLite would let go of SQLite's locks on it.
        let size = |path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.state.figures(directory::files(&self.config.path).into_iter().map(size).sum())
    }
}
