//! The storage as the engine sees it. It is thin; its threads do the work.

use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Janitor, Level, ReadKey, Recovery, RecoveryReport, Storage, StorageError, StorageErrorKind,
    StorageStats, stage,
};
use durable_files::{Files, Lock, Reserve, SystemFiles};

use crate::cleaner::Cleaner;
use crate::config::JsonLogConfig;
use crate::error::JsonLogError;
use crate::shared::Shared;
use crate::sync::Syncer;
use crate::wakeup::Wakeup;
use crate::write_queue::{Request, WriteQueue};
use crate::writer::Writer;
use crate::writer_slot::WriterSlot;
use crate::{directory, reads, recovery};
use broker_core::settings::Durability;

/// The space reserved for a full disk, because acknowledgements need lines in the log as well.
const RESERVE_BYTES: u64 = 32 << 20;

/// The JSON log; see the crate's documentation.
#[derive(Debug)]
pub struct JsonLogStorage {
    shared: Arc<Shared>,
    queue: Arc<WriteQueue>,
    wakeup: Arc<Wakeup>,
    slot: OnceLock<Arc<WriterSlot>>,
    own: Mutex<Own>,
}

/// The parts released on closing, in this order.
#[derive(Debug, Default)]
struct Own {
    cleaner: Option<JoinHandle<()>>,
    writers: Vec<JoinHandle<()>>,
    recovered: bool,
    lock: Option<Lock>,
}

impl JsonLogStorage {
    /// Creates the data directory if it is missing, locks it, and checks that it belongs to this storage. [`Storage::recover`] reads
    /// the data.
    ///
    /// # Errors
    /// `Locked`: another broker uses it. `Unusable`: the configuration is invalid, or the directory belongs to another kind of
    /// storage, a newer release or another user; it was not changed.
    pub fn open(config: JsonLogConfig) -> Result<Self, StorageError> {
        Self::open_keeping(config, Arc::new(SystemFiles), RESERVE_BYTES)
    }

    /// The same over another implementation of [`Files`], such as one that fails on purpose.
    ///
    /// # Errors
    /// Those of [`JsonLogStorage::open`].
    pub fn open_with(config: JsonLogConfig, files: Arc<dyn Files>) -> Result<Self, StorageError> {
        // Simulated files do not use the disk's space.
        Self::open_keeping(config, files, 0)
    }

    /// Opens the storage with `reserve` bytes reserved for a full disk.
    fn open_keeping(config: JsonLogConfig, files: Arc<dyn Files>, reserve: u64) -> Result<Self, StorageError> {
        config.validate()?;
        let dir = &config.path;
        match files.list(dir) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable_files::create_dir(&*files, dir)?;
            }
            Err(source) => return Err(JsonLogError::io("list", dir, source).into()),
        }
        let mut lock = Lock::acquire_if(&*files, dir, || directory::look(&*files, dir).map(drop))?;
        let reserve = if reserve == 0 { Reserve::none() } else { Reserve::new(dir, reserve, 4) };
        reserve.before_opening();
        lock.sign()?;
        if config.clean_on_start {
            directory::clean(&*files, dir)?;
        }
        let shared = Shared::new(config, files).with_reserve(reserve);
        Ok(Self::over(shared, lock))
    }

    /// A storage over a directory that is already checked and locked.
    pub(crate) fn with_lock(config: JsonLogConfig, files: Arc<dyn Files>, lock: Lock) -> Self {
        Self::over(Shared::new(config, files), lock)
    }

    fn over(shared: Shared, lock: Lock) -> Self {
        Self {
            shared: Arc::new(shared),
            queue: Arc::default(),
            wakeup: Arc::default(),
            slot: OnceLock::new(),
            own: Mutex::new(Own { lock: Some(lock), ..Own::default() }),
        }
    }

    /// Records that the segments up to `through` are gone. Called after recovery. Blocking.
    pub(crate) fn note_gone(&self, through: u64) -> Result<(), StorageError> {
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        self.queue.push(Request::Free { through, done }).map_err(|_closed| StorageError::closed())?;
        answer.recv().unwrap_or_else(|_gone| Err(StorageError::closed()))
    }

    /// Closes the storage like [`Storage::close`], without a runtime. Blocking.
    pub(crate) fn close_now(&self) -> Result<(), StorageError> {
        if self.shared.closed.swap(true, AcqRel) {
            return Err(StorageError::closed());
        }
        Self::shut(&self.shared, &self.queue, &self.wakeup, std::mem::take(&mut *self.own()));
        self.shared.failure().map_or(Ok(()), |error| Err(error.clone()))
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

    /// Ends the threads, after all submitted batches are written and synced, and releases the directory. Blocking.
    fn shut(shared: &Shared, queue: &WriteQueue, wakeup: &Wakeup, mut own: Own) {
        shared.closed.store(true, std::sync::atomic::Ordering::Release);
        // The cleaner ends first, because it waits for the writer.
        wakeup.stop();
        join(own.cleaner.take());
        let _writer_gone = queue.push(Request::Close);
        for thread in own.writers.drain(..) {
            join(Some(thread));
        }
        queue.close();
        shared.segments.close();
        drop(own.lock.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    // The cleaner may hold the last reference to the janitor, and the janitor the last one to the storage. Then this runs on the
    // cleaner's own thread, which cannot join itself.
    let is_own = thread.as_ref().is_some_and(|thread| thread.thread().id() == std::thread::current().id());
    if !is_own && thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of the storage panicked");
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StorageError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| {
        StorageError::new(StorageErrorKind::Failed, format!("cannot start the thread {name}")).with_source(error)
    })
}

#[async_trait]
impl Storage for JsonLogStorage {
    fn kind(&self) -> &'static str {
        crate::format::KIND
    }

    fn level(&self) -> Level {
        self.shared.config.durability.level()
    }

    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        let mut own = self.own();
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        if std::mem::replace(&mut own.recovered, true) {
            return Err(StorageError::new(StorageErrorKind::Failed, "the storage was already recovered"));
        }
        let (report, start) = recovery::recover(&self.shared, recovery)?;
        let syncer = Arc::new(Syncer::new(self.shared.clone()));
        let (shared, queue, wakeup) = (self.shared.clone(), self.queue.clone(), self.wakeup.clone());
        let slot = Arc::new(WriterSlot::new(Writer::new(shared, queue.clone(), syncer.clone(), wakeup, start)));
        let for_submitters = slot.clone();
        own.writers.push(spawn("json-log-write", move || slot.run(&queue))?);
        own.writers.push(spawn("json-log-sync", move || syncer.run())?);
        // Set once: recovery happens once, and no batch is submitted before it.
        let _recovered_before = self.slot.set(for_submitters);
        Ok(report)
    }

    /// Allocates the reserve and starts the cleaner. A user that only reads the storage, such as an export, does not call this and so
    /// needs no reserve.
    fn start(&self, janitor: Arc<dyn Janitor>) {
        self.shared.reserve.take();
        let mut own = self.own();
        if own.cleaner.is_some() || own.writers.is_empty() {
            return;
        }
        let (shared, queue, wakeup) = (self.shared.clone(), self.queue.clone(), self.wakeup.clone());
        let cleaner = Cleaner { shared, queue, wakeup, janitor };
        match spawn("json-log-clean", move || cleaner.run()) {
            Ok(thread) => own.cleaner = Some(thread),
            Err(error) => {
                tracing::error!(error = %error, "cannot start the cleaning thread; no space is freed until restart");
            }
        }
    }

    fn submit(&self, batch: Batch) -> Commit {
        let (written, written_stage) = stage();
        let (durable, durable_stage) = stage();
        let commit = Commit { written: written_stage, durable: durable_stage };
        if let Some(error) = self.refusal() {
            written.complete(Err(error.clone()));
            durable.complete(Err(error));
            return commit;
        }
        let durable = if self.shared.config.durability == Durability::Never {
            durable.complete(Ok(()));
            None
        } else {
            Some(durable)
        };
        let request = Request::Commit { batch, written, durable };
        let left = match self.slot.get() {
            Some(slot) => slot.write(&self.queue, request),
            None => Err(request),
        };
        let refused = left.or_else(|request| self.queue.push(request));
        if let Err(Request::Commit { written, durable, .. }) = refused {
            // The writer is gone: closed, or failed since the check above.
            let error = self.refusal().unwrap_or_else(StorageError::closed);
            written.complete(Err(error.clone()));
            if let Some(durable) = durable {
                durable.complete(Err(error));
            }
        }
        commit
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        if self.shared.closed.load(Acquire) {
            return Err(StorageError::closed());
        }
        let count = keys.len();
        // Resolved before the thread switch, so that each place stays readable even if its event is moved in between.
        let wanted = reads::resolve(&self.shared, keys);
        if wanted.is_empty() {
            return Ok(vec![None; count]);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || reads::read(&shared, wanted, count));
        read.await
            .map_err(|error| StorageError::new(StorageErrorKind::Read, "reading was aborted").with_source(error))?
    }

    fn has_room(&self) -> bool {
        !self.shared.reserve.is_spent()
    }

    fn stats(&self) -> StorageStats {
        self.shared.stats()
    }

    async fn close(&self) -> Result<(), StorageError> {
        if self.shared.closed.swap(true, AcqRel) {
            return Err(StorageError::closed());
        }
        let own = std::mem::take(&mut *self.own());
        let (shared, queue, wakeup) = (self.shared.clone(), self.queue.clone(), self.wakeup.clone());
        let shut = tokio::task::spawn_blocking(move || Self::shut(&shared, &queue, &wakeup, own));
        shut.await
            .map_err(|error| StorageError::new(StorageErrorKind::Failed, "closing was aborted").with_source(error))?;
        self.shared.failure().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Drop for JsonLogStorage {
    /// Closes a storage that is still open, and waits for the last sync.
    fn drop(&mut self) {
        let own = std::mem::take(self.own.get_mut().unwrap_or_else(PoisonError::into_inner));
        if own.lock.is_some() {
            Self::shut(&self.shared, &self.queue, &self.wakeup, own);
        }
    }
}
