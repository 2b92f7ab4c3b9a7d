//! The storage as the engine sees it: thin, the work is done by the threads.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use broker_core::event::Payload;
use broker_core::storage::{
    Batch, Commit, Janitor, Level, ReadKey, Recovery, RecoveryReport, Storage, StorageError, StorageErrorKind,
    StorageFigures, stage,
};

use crate::cleaner::{Cleaner, Nudge};
use crate::config::{Durability, JsonLogConfig};
use crate::desk::Desk;
use crate::error::JsonLogError;
use crate::files::{Entry, Files, LockGuard, OpenMode, SystemFiles, read_full};
use crate::format::{Names, Record, check, decode};
use crate::inbox::{Inbox, Request};
use crate::segment::parse_file_name;
use crate::shared::Shared;
use crate::sync::Syncer;
use crate::writer::Writer;
use crate::{lock, reads, recovery};

/// The JSON log; see the crate's documentation.
#[derive(Debug)]
pub struct JsonLogStorage {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    nudge: Arc<Nudge>,
    desk: OnceLock<Arc<Desk>>,
    own: Mutex<Own>,
}

/// What is let go of at the end, in this order.
#[derive(Debug, Default)]
struct Own {
    cleaner: Option<JoinHandle<()>>,
    writers: Vec<JoinHandle<()>>,
    recovered: bool,
    lock: Option<Box<dyn LockGuard>>,
}

impl JsonLogStorage {
    /// Takes the data directory: makes it if it is missing, locks it, and looks whether it is this storage's.
    /// Reading is left to [`Storage::recover`].
    ///
    /// # Errors
    /// `Locked`: another broker has it. `Unusable`: the configuration does not make sense, the directory belongs to another kind
    /// of storage, a newer release or another user; nothing in it was changed.
    pub fn open(config: JsonLogConfig) -> Result<Self, StorageError> {
        Self::open_with(config, Arc::new(SystemFiles))
    }

    /// The same over other files than the operating system's, such as ones that fail.
    ///
    /// # Errors
    /// Those of [`JsonLogStorage::open`].
    pub fn open_with(config: JsonLogConfig, files: Arc<dyn Files>) -> Result<Self, StorageError> {
        config.validate()?;
        let dir = &config.path;
        match files.list(dir) {
            Ok(entries) => look(&*files, dir, &entries)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files.create_dir(dir).map_err(|source| JsonLogError::io("make the directory", dir, source))?;
            }
            Err(source) => return Err(JsonLogError::io("list", dir, source).into()),
        }
        let guard = lock::acquire(&*files, dir)?;
        if config.clean_on_start {
            clean(&*files, dir)?;
        }
        Ok(Self::with_lock(config, files, guard))
    }

    /// Over a directory that was looked at and locked before.
    pub(crate) fn with_lock(config: JsonLogConfig, files: Arc<dyn Files>, guard: Box<dyn LockGuard>) -> Self {
        Self {
            shared: Arc::new(Shared::new(config, files)),
            inbox: Arc::default(),
            nudge: Arc::default(),
            desk: OnceLock::new(),
            own: Mutex::new(Own { lock: Some(guard), ..Own::default() }),
        }
    }

    /// Writes the note that the segments up to `through` are gone, after recovery. Blocking.
    pub(crate) fn note_gone(&self, through: u64) -> Result<(), StorageError> {
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        self.inbox.push(Request::Free { through, done }).map_err(|_closed| StorageError::closed())?;
        answer.recv().unwrap_or_else(|_gone| Err(StorageError::closed()))
    }

    /// As [`Storage::close`], without a runtime. Blocking.
    pub(crate) fn close_now(&self) -> Result<(), StorageError> {
        if self.shared.closed.swap(true, AcqRel) {
            return Err(StorageError::closed());
        }
        Self::shut(&self.shared, &self.inbox, &self.nudge, std::mem::take(&mut *self.own()));
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

    /// Ends the threads and lets go of the directory; blocking. What was submitted is written and synced first.
    fn shut(shared: &Shared, inbox: &Inbox, nudge: &Nudge, mut own: Own) {
        shared.closed.store(true, std::sync::atomic::Ordering::Release);
        // The cleaner first: it waits for the writer.
        nudge.stop();
        join(own.cleaner.take());
        let _writer_gone = inbox.push(Request::Close);
        for thread in own.writers.drain(..) {
            join(Some(thread));
        }
        inbox.close();
        shared.segments.close();
        drop(own.lock.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    // A janitor may have held the last reference to the storage, and the cleaner the last one to the janitor.
    let is_own = thread.as_ref().is_some_and(|thread| thread.thread().id() == std::thread::current().id());
    if !is_own && thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of the storage has panicked");
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
        let (report, start) = recovery::recover(&self.shared, recovery)?;
        let syncer = Arc::new(Syncer::new(self.shared.clone()));
        let (shared, inbox, nudge) = (self.shared.clone(), self.inbox.clone(), self.nudge.clone());
        let desk = Arc::new(Desk::new(Writer::new(shared, inbox.clone(), syncer.clone(), nudge, start)));
        let for_submitters = desk.clone();
        own.writers.push(spawn("json-log-write", move || desk.run(&inbox))?);
        own.writers.push(spawn("json-log-sync", move || syncer.run())?);
        // From here on batches come; recovery happens once.
        let _recovered_before = self.desk.set(for_submitters);
        Ok(report)
    }

    fn start(&self, janitor: Arc<dyn Janitor>) {
        let mut own = self.own();
        if own.cleaner.is_some() || own.writers.is_empty() {
            return;
        }
        let (shared, inbox, nudge) = (self.shared.clone(), self.inbox.clone(), self.nudge.clone());
        let cleaner = Cleaner { shared, inbox, nudge, janitor };
        match spawn("json-log-clean", move || cleaner.run()) {
            Ok(thread) => own.cleaner = Some(thread),
            Err(error) => tracing::error!(error = %error, "space will not be freed until the next start"),
        }
    }

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
        let request = Request::Commit { batch, written, safe };
        let left = match self.desk.get() {
            Some(desk) => desk.write(&self.inbox, request),
            None => Err(request),
        };
        let refused = left.or_else(|request| self.inbox.push(request));
        if let Err(Request::Commit { written, safe, .. }) = refused {
            // The writer is gone: closed, or failed since the check above.
            let error = self.refusal().unwrap_or_else(StorageError::closed);
            written.complete(Err(error.clone()));
            if let Some(safe) = safe {
                safe.complete(Err(error));
            }
        }
        commit
    }

    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        if self.shared.closed.load(Acquire) {
            return Err(StorageError::closed());
        }
        let count = keys.len();
        // Here and not on the other thread: what is found now stays readable, even if it is moved meanwhile.
        let wanted = reads::resolve(&self.shared, keys);
        if wanted.is_empty() {
            return Ok(vec![None; count]);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || reads::read(&shared, wanted, count));
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
        let (shared, inbox, nudge) = (self.shared.clone(), self.inbox.clone(), self.nudge.clone());
        let shut = tokio::task::spawn_blocking(move || Self::shut(&shared, &inbox, &nudge, own));
        shut.await
            .map_err(|error| StorageError::new(StorageErrorKind::Failed, "closing was aborted").with_source(error))?;
        self.shared.failure().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Drop for JsonLogStorage {
    /// As closing does, for those who did not; it waits for the last sync.
    fn drop(&mut self) {
        let own = std::mem::take(self.own.get_mut().unwrap_or_else(PoisonError::into_inner));
        if own.lock.is_some() {
            Self::shut(&self.shared, &self.inbox, &self.nudge, own);
        }
    }
}

/// Looks at what is in the directory before anything there is changed.
pub(crate) fn look(files: &dyn Files, dir: &Path, entries: &[Entry]) -> Result<(), JsonLogError> {
    let segments: Vec<_> = entries.iter().filter(|entry| parse_file_name(&entry.name).is_some()).collect();
    for entry in entries {
        let is_stray = Path::new(&entry.name).extension() == Some(OsStr::new("jsonl"));
        if is_stray && parse_file_name(&entry.name).is_none() {
            let file = dir.join(&entry.name);
            tracing::warn!(file = %file.display(), "not a file of the log: it is left alone and not read");
        }
    }
    for entry in &segments {
        let path = dir.join(&entry.name);
        let start = first_bytes(files, &path)?;
        let line = memchr::memchr(b'\n', &start).map_or(&start[..], |end| &start[..end]);
        if let Some(body) = check(line)
            && let Some((_, Record::Alien { kind, version })) = decode(body, &mut Names::default())
        {
            return Err(recovery::alien(&path, kind, version));
        }
    }
    if segments.is_empty() {
        return look_for_others(files, dir, entries);
    }
    Ok(())
}

/// Someone who changes `storage.kind` must not find an empty broker where there was a full one.
fn look_for_others(files: &dyn Files, dir: &Path, entries: &[Entry]) -> Result<(), JsonLogError> {
    let has = |name: &str| entries.iter().any(|entry| entry.name == OsStr::new(name));
    if has("conf") && has("db") {
        return Err(JsonLogError::Foreign { path: dir.to_owned(), what: "a sled database".to_owned() });
    }
    for entry in entries {
        let path = dir.join(&entry.name);
        if first_bytes(files, &path)?.starts_with(b"SQLite format 3\0") {
            return Err(JsonLogError::Foreign { path, what: "an SQLite database".to_owned() });
        }
    }
    Ok(())
}

fn first_bytes(files: &dyn Files, path: &Path) -> Result<Vec<u8>, JsonLogError> {
    /// Longer than any header.
    const ENOUGH: usize = 1024;
    let trouble = |source| JsonLogError::io("read", path, source);
    let file = files.open(path, OpenMode::Read).map_err(trouble)?;
    let mut start = vec![0; ENOUGH];
    let read = read_full(&*file, &mut start, 0).map_err(trouble)?;
    start.truncate(read);
    Ok(start)
}

/// Removes the segments, and nothing else.
fn clean(files: &dyn Files, dir: &Path) -> Result<(), JsonLogError> {
    let entries = files.list(dir).map_err(|source| JsonLogError::io("list", dir, source))?;
    let mut segments: Vec<_> = entries.iter().filter(|entry| parse_file_name(&entry.name).is_some()).collect();
    // The newest first: what an interruption leaves is an older state, not a damaged one.
    segments.sort_by(|a, b| b.name.cmp(&a.name));
    for entry in &segments {
        let path = dir.join(&entry.name);
        files.unlink(&path).map_err(|source| JsonLogError::io("remove", &path, source))?;
        files.sync_dir(dir).map_err(|source| JsonLogError::io("sync", dir, source))?;
    }
    if !segments.is_empty() {
        tracing::warn!(path = %dir.display(), segments = segments.len(), "removed the log, as storage.clean_on_start says");
    }
    Ok(())
}
