//! What the threads of a storage share.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use backend_embedded::State;
use broker_core::name::TopicName;
use broker_core::storage::StorageFigures;

use crate::config::SledConfig;
use crate::database::Database;

/// The state that is not owned by one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SledConfig,
    pub(crate) state: Arc<State>,
    /// `None` before recovery and after closing. Whoever reads holds the lock while it does, so closing waits for it.
    pub(crate) database: RwLock<Option<Arc<Database>>>,
    /// The numbers of topics, for those who read.
    pub(crate) topics: RwLock<HashMap<TopicName, u32>>,
}

impl Shared {
    pub(crate) fn new(config: SledConfig) -> Self {
        let state = Arc::new(State::new(config.path.clone(), config.durability));
        Self { config, state, database: RwLock::default(), topics: RwLock::default() }
    }

    /// The open database.
    pub(crate) fn database(&self) -> Option<Arc<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another database in place of the open one, and returns that.
    pub(crate) fn replace(&self, database: Option<Arc<Database>>) -> Option<Arc<Database>> {
        std::mem::replace(&mut *self.database.write().unwrap_or_else(PoisonError::into_inner), database)
    }

    pub(crate) fn figures(&self) -> StorageFigures {
        self.state.figures(self.database().map_or(0, |database| bytes_below(&database.path)))
    }
}

/// What the files below `dir` take; those that go meanwhile do not count.
pub(crate) fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
