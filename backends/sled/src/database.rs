//! A sled database, opened the one way that this storage needs, and synced as sled does not.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backend_embedded::sync_dir;

use crate::error::SledError;
use crate::watch::Watch;
use crate::{keys, record};

/// sled writes and reuses its file in such steps. Larger than sled's own default because a tree page longer than a quarter of
/// it goes into a file that sled does not sync; see [`record::PART_BYTES`].
const SEGMENT_BYTES: usize = 2 << 20;

/// Where sled keeps the settings that must not change, followed by a checksum.
const SETTINGS: &str = "conf";

/// sled lets go of its own lock a little after the last handle is dropped. Our lock says that nobody else has the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) path: PathBuf,
    /// Goes before the handle: it has one as well.
    watch: Watch,
    pub(crate) db: Handle,
    /// sled's file once more: syncing any handle syncs the file.
    file: File,
}

/// sled's handle. Whoever lets go of the last one syncs the file once more, and sled panics if it cannot; what was promised to
/// anybody was synced before.
#[derive(Debug)]
pub(crate) struct Handle(Option<sled::Db>);

impl Deref for Handle {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.0.as_ref().expect("it is taken when it is dropped, and not before")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("sled could not sync its file when it was closed");
        }
    }
}

impl Database {
    /// Opens or makes the database in `path`. Blocking: sled reads its log.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, SledError> {
        check_settings(path)?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .segment_size(SEGMENT_BYTES)
            // The writer flushes; a second flusher would only get in its way.
            .flush_every_ms(None);
        remove_unfinished_snapshots(path)?;
        let began = Instant::now();
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(sled::Error::Io(error))
                    if error.to_string().contains("acquire lock") && began.elapsed() < LOCK_PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(source) => return Err(SledError::sled("open the database", path, source)),
            }
        };
        let file = path.join("db");
        let file = File::open(&file).map_err(|source| SledError::io("open", &file, source))?;
        let watch = Watch::start(db.clone()).map_err(|source| SledError::io("start a thread for", path, source))?;
        let database = Self { path: path.to_owned(), watch, db: Handle(Some(db)), file };
        database.sync_beside()?;
        database.check_header()?;
        Ok(database)
    }

    /// A database that is not empty says which format its records have.
    fn check_header(&self) -> Result<(), SledError> {
        let trouble = |source| SledError::sled("read", &self.path, source);
        let key = keys::header();
        let value = self.db.get(&key).map_err(trouble)?;
        let version = value.and_then(|value| record::decode_number(record::unseal(&key, &value).ok()?));
        let known = u64::from(record::VERSION);
        match version {
            Some(found) if found > known => Err(SledError::NewerVersion { path: self.path.clone(), found, known }),
            // An upgrade from an older version goes here, record by record, before anything is handed back.
            Some(_) => Ok(()),
            None if self.db.is_empty() => {
                let value = record::seal(&key, &record::encode_number(known));
                self.db.insert(key, value).map(drop).map_err(trouble)?;
                self.flush().and_then(|()| self.sync())
            }
            None => {
                // Of one damaged record nothing else is to suffer: the file beside the database says the same.
                tracing::error!(path = %self.path.display(), "the record that names the format does not check");
                Ok(())
            }
        }
    }

    /// Lets sled free what `changes` changes have left behind.
    ///
    /// Each change copies a page, and the old one is freed when somebody visits the tree, a few hundred at every 128th visit.
    /// A batch is one visit, so under load what is left behind would grow to gigabytes.
    pub(crate) fn tidy_up(&self, changes: usize) -> sled::Result<()> {
        (0..changes).try_for_each(|_| self.db.contains_key(keys::group()).map(drop))
    }

    /// Hands everything that was applied to the operating system.
    pub(crate) fn flush(&self) -> Result<(), SledError> {
        self.watch.over(|| {
            self.db.flush().map(drop).map_err(|source| SledError::sled("write to the database", &self.path, source))
        })
    }

    /// Syncs what was flushed, with the file's length, which sled's own flush leaves out on Linux.
    pub(crate) fn sync(&self) -> Result<(), SledError> {
        self.file.sync_data().map_err(|source| SledError::io("sync the database", &self.path, source))
    }

    /// Syncs what sled makes beside its file and does not sync: its settings, and the names of all. At each start, since a run that was
    /// killed may have made them and not got here.
    fn sync_beside(&self) -> Result<(), SledError> {
        let settings = self.path.join(SETTINGS);
        let synced = File::open(&settings).and_then(|file| file.sync_all());
        synced.map_err(|source| SledError::io("sync", &settings, source))?;
        sync_dir(&self.path)?;
        Ok(self.path.parent().map_or(Ok(()), sync_dir)?)
    }
}

/// Removes the snapshots that sled was writing when it was interrupted: it would take one for the latest, and refuse to start
/// over it. They are derived from the log, which is complete without them.
fn remove_unfinished_snapshots(path: &Path) -> Result<(), SledError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SledError::io("list", path, source)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(entry.path()).map_err(|source| SledError::io("remove", &entry.path(), source))?;
        }
    }
    Ok(())
}

/// Removes sled's settings if they do not check: sled refuses to open a database with such a file, and writes the same again if
/// there is none. They are all fixed here, so nothing is lost with them.
///
/// sled does not sync the file, so a power failure in the moment in which a database is made can leave any part of it.
fn check_settings(path: &Path) -> Result<(), SledError> {
    let path = path.join(SETTINGS);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SledError::io("read", &path, source)),
    };
    let checks = bytes.split_last_chunk().is_some_and(|(text, crc)| crc32fast::hash(text) == u32::from_le_bytes(*crc));
    if checks {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "the settings of sled do not check: they are written anew");
    fs::remove_file(&path).map_err(|source| SledError::io("remove", &path, source))
}

/// Keeps sled's cache in its bounds while much is read in order.
///
/// sled looks after its cache only once 64 visits of pages have come together in one of its 256 shards. Whoever walks through
/// the tree visits each page once, so thousands of pages would gather first, each as large as 16 values. One more visit for each KiB
/// that was read bounds what gathers to 16 MiB.
#[derive(Debug, Default)]
pub(crate) struct Pace(usize);

impl Pace {
    /// In bytes.
    const VISIT_EVERY: usize = 1 << 10;

    /// A value of `bytes` was read under `key`.
    pub(crate) fn read(&mut self, tree: &sled::Tree, key: &[u8], bytes: usize) -> sled::Result<()> {
        self.0 += bytes;
        while self.0 >= Self::VISIT_EVERY {
            self.0 -= Self::VISIT_EVERY;
            tree.contains_key(key)?;
        }
        Ok(())
    }
}
