//! The storage as the engine sees it, over any embedded database. It is thin; the writing thread does the work.
//!
//! ```text
//!   submit ──▶ WriteQueue ──▶ Writer thread ──▶ DatabaseWriter::write, sync ──▶ stages of the Commit
//!   read ────▶ blocking thread of the runtime ──▶ Database::read
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Janitor, Level, ReadKey, Recovery, RecoveryReport, Storage, StorageError, StorageErrorKind,
    StorageStats,
};
use durable_files::Lock;

use crate::state::State;
use crate::write_queue::WriteQueue;
use crate::writer::{DatabaseWriter, Writer};

/// An embedded database, shared by the threads of its storage.
pub trait Database: fmt::Debug + Send + Sync + Sized + 'static {
    /// The storage's kind, as [`Storage::kind`].
    const KIND: &'static str;

    /// The name of the writing thread.
    const WRITER_THREAD: &'static str;

    /// The storage's settings.
    type Config;

    /// The writing thread's part of the database.
    type Writer: DatabaseWriter;

    /// Creates the data directory if it is missing, locks it, and checks that it belongs to this storage. Reads no data yet.
    ///
    /// # Errors
    /// Those of [`EmbeddedStorage::open`].
    fn open(config: Self::Config) -> Result<(Self, Lock), StorageError>;

    /// Opens the database and replays its content into `recovery`. Called once. Blocking.
    ///
    /// # Errors
    /// Those of [`Storage::recover`].
    fn recover(self: &Arc<Self>, recovery: &mut dyn Recovery) -> Result<(RecoveryReport, Self::Writer), StorageError>;

    /// Reads payloads in the order of `keys`. Blocking.
    ///
    /// # Errors
    /// `Closed` before recovery and after closing; `Read` when reading fails.
    fn read(&self, keys: &[ReadKey]) -> Result<Vec<Option<Payload>>, StorageError>;

    /// The state shared with its threads: whether it serves, and its counters.
    fn state(&self) -> &Arc<State>;

    /// The size of its files in bytes.
    fn bytes(&self) -> u64;

    /// Closes the readers' handles and waits for reads under way. Called after the writing thread has ended.
    fn close(&self);
}

/// A storage over an embedded database.
#[derive(Debug)]
pub struct EmbeddedStorage<D: Database> {
    database: Arc<D>,
    queue: Arc<WriteQueue>,
    own: Mutex<Own>,
}

/// The parts released on closing, in this order.
#[derive(Debug, Default)]
struct Own {
    writer: Option<JoinHandle<()>>,
    recovered: bool,
    lock: Option<Lock>,
}

impl<D: Database> EmbeddedStorage<D> {
    /// Creates the data directory if it is missing, locks it, and checks that it belongs to this storage. [`Storage::recover`] reads
    /// the data.
    ///
    /// # Errors
    /// `Locked`: another broker uses it. `Unusable`: the configuration is invalid, or the directory belongs to another kind of
    /// storage, a newer release or another user; it was not changed.
    pub fn open(config: D::Config) -> Result<Self, StorageError> {
        let (database, lock) = D::open(config)?;
        let own = Own { lock: Some(lock), ..Own::default() };
        Ok(Self { database: Arc::new(database), queue: Arc::default(), own: Mutex::new(own) })
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the writing thread, after it has written and synced all submitted batches, and releases the directory. Blocking.
fn shut<D: Database>(database: &D, queue: &WriteQueue, mut own: Own) {
    database.state().close();
    queue.end();
    if own.writer.take().is_some_and(|writer| writer.join().is_err()) {
        tracing::error!("the storage's writing thread panicked");
    }
    queue.close(&StorageError::closed());
    database.close();
    drop(own.lock.take());
}

#[async_trait]
impl<D: Database> Storage for EmbeddedStorage<D> {
    fn kind(&self) -> &'static str {
        D::KIND
    }

    fn level(&self) -> Level {
        self.database.state().durability().level()
    }

    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        let mut own = self.own();
        let state = self.database.state();
        if let Some(error) = state.refusal() {
            return Err(error);
        }
        if std::mem::replace(&mut own.recovered, true) {
            return Err(StorageError::new(StorageErrorKind::Failed, "the storage was already recovered"));
        }
        let (report, writer) = self.database.recover(recovery)?;
        own.writer = Some(Writer::start(D::WRITER_THREAD, writer, state.clone(), self.queue.clone())?);
        Ok(report)
    }

    /// Allocates the reserve. Ignores the janitor, because an embedded database frees space without moving events. A user that only
    /// reads the storage, such as an export, does not call this and so needs no reserve.
    fn start(&self, _janitor: Arc<dyn Janitor>) {
        self.database.state().reserve().take();
    }

    fn has_room(&self) -> bool {
        !self.database.state().reserve().is_spent()
    }

    fn submit(&self, batch: Batch) -> Commit {
        self.queue.submit(batch, self.database.state())
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        if self.database.state().is_closed() {
            return Err(StorageError::closed());
        }
        let database = self.database.clone();
        let read = tokio::task::spawn_blocking(move || database.read(&keys));
        read.await
            .map_err(|error| StorageError::new(StorageErrorKind::Read, "reading was aborted").with_source(error))?
    }

    fn stats(&self) -> StorageStats {
        self.database.state().stats(self.database.bytes())
    }

    async fn close(&self) -> Result<(), StorageError> {
        let state = self.database.state();
        if !state.close() {
            return Err(StorageError::closed());
        }
        let own = std::mem::take(&mut *self.own());
        let (database, queue) = (self.database.clone(), self.queue.clone());
        let shut = tokio::task::spawn_blocking(move || shut(&*database, &queue, own));
        shut.await
            .map_err(|error| StorageError::new(StorageErrorKind::Failed, "closing was aborted").with_source(error))?;
        state.failure().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl<D: Database> Drop for EmbeddedStorage<D> {
    /// Closes a storage that is still open, and waits for the last sync.
    fn drop(&mut self) {
        let own = std::mem::take(self.own.get_mut().unwrap_or_else(PoisonError::into_inner));
        if own.lock.is_some() {
            shut(&*self.database, &self.queue, own);
        }
    }
}
