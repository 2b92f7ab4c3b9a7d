//! The storage as the engine sees it: thin, the work is done by the writer.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Janitor, Level, ReadKey, Recovery, RecoveryReport, Storage, StorageError, StorageErrorKind,
    StorageFigures, stage,
};

use crate::config::{Durability, SqliteConfig};
use crate::inbox::{Inbox, Pending, Request};
use crate::lock::Lock;
use crate::shared::Shared;
use crate::writer::Writer;
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

    fn refusal(&self) -> Option<StorageError> {
        if self.shared.closed.load(Acquire) {
            return Some(StorageError::closed());
        }
        self.shared.failure().cloned()
    }

    /// Ends the thread and lets go of the directory; blocking. What was submitted is written and synced first.
    fn shut(shared: &Shared, inbox: &Inbox, mut own: Own) {
        shared.closed.store(true, Release);
        let _writer_gone = inbox.push(Request::Close);
        if own.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writing thread of the storage has panicked");
        }
        inbox.close();
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
        match self.shared.config.durability {
            Durability::Always => Level::Synced,
            Durability::Interval => Level::Written,
            Durability::Never => Level::Memory,
        }
    }

    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        let mut own = self.own();
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        if std::mem::replace(&mut own.recovered, true) {
            return Err(StorageError::new(StorageErrorKind::Failed, "the storage has been recovered before"));
        }
        let (report, names, connection) = recovery::recover(&self.shared, recovery)?;
        let numbers = names.topics.iter().map(|(name, topic)| (name.clone(), topic.id));
        self.shared.topics.write().unwrap_or_else(PoisonError::into_inner).extend(numbers);
        let mut writer = Writer::new(self.shared.clone(), self.inbox.clone(), connection, names);
        let thread = std::thread::Builder::new().name("sqlite-write".to_owned()).spawn(move || writer.run());
        own.writer = Some(thread.map_err(|error| {
            StorageError::new(StorageErrorKind::Failed, "cannot start the thread sqlite-write").with_source(error)
        })?);
        Ok(report)
    }

    /// Nothing: it moves no events.
    fn start(&self, _janitor: Arc<dyn Janitor>) {}

    fn submit(&self, batch: Batch) -> Commit {
        let (written, written_stage) = stage();
        let (safe, safe_stage) = stage();
        let commit = Commit { written: written_stage, safe: safe_stage };
        if let Some(error) = self.refusal() {
            written.complete(Err(error.clone()));
            safe.complete(Err(error));
            return commit;
        }
        let safe = if self.shared.config.durability == Durability::Never {
            safe.complete(Ok(()));
            None
        } else {
            Some(safe)
        };
        let request = Request::Commit(Pending { batch, written, safe });
        if let Err(Request::Commit(Pending { written, safe, .. })) = self.inbox.push(request) {
            // The writer is gone: closed, or failed since the check above.
            let error = self.refusal().unwrap_or_else(StorageError::closed);
            written.complete(Err(error.clone()));
            safe.into_iter().for_each(|safe| safe.complete(Err(error.clone())));
        }
        commit
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        if self.shared.closed.load(Acquire) {
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
        if self.shared.closed.swap(true, AcqRel) {
            return Err(StorageError::closed());
        }
        let own = std::mem::take(&mut *self.own());
        let (shared, inbox) = (self.shared.clone(), self.inbox.clone());
        let shut = tokio::task::spawn_blocking(move || Self::shut(&shared, &inbox, own));
        shut.await
            .map_err(|error| StorageError::new(StorageErrorKind::Failed, "closing was aborted").with_source(error))?;
        self.shared.failure().map_or(Ok(()), |error| Err(error.clone()))
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
