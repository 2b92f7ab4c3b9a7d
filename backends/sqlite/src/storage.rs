//! The storage as the engine sees it: thin, the work is done by the writer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use backend_embedded::{Inbox, Lock, Writer};
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Janitor, Level, ReadKey, Recovery, RecoveryReport, Storage, StorageError, StorageErrorKind,
    StorageFigures,
};

use crate::config::SqliteConfig;
use crate::shared::Shared;
use crate::writer::Tables;
use crate::{directory, reads, recovery};

/// The SQLite storage; see the crate's documentation.
#[derive(Debug)]
pub struct SqliteStorage {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    own: Mutex<Own>,
}

/// What is let go of at the end, in this order.
#[derive(Debug, Default)]
struct Own {
    writer: Option<JoinHandle<()>>,
    recovered: bool,
    lock: Option<Lock>,
}

impl SqliteStorage {
    /// Takes the data directory: makes it if it is missing, locks it, and looks whether it is this storage's.
    /// Reading is left to [`Storage::recover`].
    ///
    /// # Errors
    /// `Locked`: another broker has it. `Unusable`: the configuration does not make sense, the directory belongs to another kind
    /// of storage, a newer release or another user; nothing in it was changed.
    pub fn open(config: SqliteConfig) -> Result<Self, StorageError> {
        config.validate()?;
        let dir = &config.path;
        if !directory::look(dir)? {
            directory::make(dir)?;
        }
        if !config.clean_on_start {
            directory::look_for_orphan(dir)?;
        }
        let mut lock = Lock::acquire(dir)?;
        if let Err(error) = directory::look_at_database(dir) {
            lock.undo();
            return Err(error.into());
        }
        lock.sign()?;
        if config.clean_on_start {
            directory::clean(dir)?;
        }
        let own = Own { lock: Some(lock), ..Own::default() };
        Ok(Self { shared: Arc::new(Shared::new(config)), inbox: Arc::default(), own: Mutex::new(own) })
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread and lets go of the directory; blocking. What was submitted is written and synced first.
    fn shut(shared: &Shared, inbox: &Inbox, mut own: Own) {
        shared.state.close();
        inbox.end();
        if own.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writing thread of the storage has panicked");
        }
        inbox.close(&StorageError::closed());
        shared.readers.close();
        drop(own.lock.take());
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn level(&self) -> Level {
        self.shared.config.durability.level()
    }

    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        let mut own = self.own();
        if let Some(error) = self.shared.state.refusal() {
            return Err(error);
        }
        if std::mem::replace(&mut own.recovered, true) {
            return Err(StorageError::new(StorageErrorKind::Failed, "the storage has been recovered before"));
        }
        let (report, names, connection) = recovery::recover(&self.shared, recovery)?;
        let numbers = names.topics.iter().map(|(name, topic)| (name.clone(), topic.id));
        self.shared.topics.write().unwrap_or_else(PoisonError::into_inner).extend(numbers);
        let interval = Duration::from_millis(self.shared.config.sync_interval_ms);
        let database = Tables::new(self.shared.clone(), connection, names);
        let state = self.shared.state.clone();
        own.writer = Some(Writer::start("sqlite-write", database, state, self.inbox.clone(), interval)?);
        Ok(report)
    }

    /// Nothing: it moves no events.
    fn start(&self, _janitor: Arc<dyn Janitor>) {}

    fn submit(&self, batch: Batch) -> Commit {
        self.inbox.submit(batch, &self.shared.state)
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        if self.shared.state.is_closed() {
            return Err(StorageError::closed());
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || {
            shared.readers.with(|connection| reads::read(&shared, connection, &keys))
        });
        read.await
            .map_err(|error| StorageError::new(StorageErrorKind::Read, "reading was aborted").with_source(error))?
    }

    fn figures(&self) -> StorageFigures {
        self.shared.figures()
    }

    async fn close(&self) -> Result<(), StorageError> {
        if !self.shared.state.close() {
            return Err(StorageError::closed());
        }
        let own = std::mem::take(&mut *self.own());
        let (shared, inbox) = (self.shared.clone(), self.inbox.clone());
        let shut = tokio::task::spawn_blocking(move || Self::shut(&shared, &inbox, own));
        shut.await
            .map_err(|error| StorageError::new(StorageErrorKind::Failed, "closing was aborted").with_source(error))?;
        self.shared.state.failure().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Drop for SqliteStorage {
    /// As closing does, for those who did not; it waits for the last sync.
    fn drop(&mut self) {
        let own = std::mem::take(self.own.get_mut().unwrap_or_else(PoisonError::into_inner));
        if own.lock.is_some() {
            Self::shut(&self.shared, &self.inbox, own);
        }
    }
}
