//! A sled database, opened with the settings that this storage requires, and synced where sled does not sync.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use durable_files::{SystemFiles, sync_dir, sync_parent};

use crate::error::SledError;
use crate::flush_watch::FlushWatch;
use crate::{keys, record};

/// The unit in which sled writes and reuses its file. Larger than sled's default, because a tree page longer than a quarter of it
/// goes into a file that sled does not sync; see [`record::PART_BYTES`].
const SEGMENT_BYTES: usize = 2 << 20;

/// sled's file of settings, which must not change. It ends in a checksum.
const SETTINGS: &str = "conf";

/// How long to wait for sled's own lock, which it releases shortly after the last handle is dropped. Our lock already excludes other
/// processes.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) path: PathBuf,
    /// Dropped before `db`, because the watch holds a handle as well.
    watch: FlushWatch,
    pub(crate) db: Handle,
    /// A second handle to sled's file, because syncing any handle syncs the file.
    file: File,
}

/// sled's handle. Dropping the last one syncs the file again, and sled panics if that fails. Everything confirmed is already synced,
/// so the panic is caught.
#[derive(Debug)]
pub(crate) struct Handle(Option<sled::Db>);

impl Deref for Handle {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.0.as_ref().expect("only dropping takes it")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("sled could not sync its file on closing");
        }
    }
}

impl Database {
    /// Opens or creates the database in `path`. Blocking: sled reads its log.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, SledError> {
        check_settings(path)?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .segment_size(SEGMENT_BYTES)
            // The writer flushes; sled's own flusher would only compete with it.
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
        let watch =
            FlushWatch::start(db.clone()).map_err(|source| SledError::io("start a thread for", path, source))?;
        let database = Self { path: path.to_owned(), watch, db: Handle(Some(db)), file };
        database.sync_beside()?;
        database.check_header()?;
        Ok(database)
    }

    /// Checks the format version's record; creates it in an empty database.
    fn check_header(&self) -> Result<(), SledError> {
        let trouble = |source| SledError::sled("read", &self.path, source);
        let key = keys::header();
        let value = self.db.get(&key).map_err(trouble)?;
        let version = value.and_then(|value| record::decode_number(record::unseal(&key, &value).ok()?));
        let known = u64::from(record::VERSION);
        match version {
            Some(found) if found > known => Err(SledError::NewerVersion { path: self.path.clone(), found, known }),
            // An upgrade from an older version belongs here, record by record, before anything is replayed.
            Some(_) => Ok(()),
            None if self.db.is_empty() => {
                let value = record::seal(&key, &record::encode_number(known));
                self.db.insert(key, value).map(drop).map_err(trouble)?;
                self.flush().and_then(|()| self.sync())
            }
            None => {
                // One damaged record must not cost the others: `conf` beside the database also states the version.
                tracing::error!(path = %self.path.display(), "the format record is damaged");
                Ok(())
            }
        }
    }

    /// Makes sled free the pages replaced by `changes` changes.
    ///
    /// Each change copies a page. sled frees old pages when the tree is visited, a few hundred at every 128th visit. A whole batch
    /// counts as one visit, so under load the garbage would grow to gigabytes without extra visits.
    pub(crate) fn tidy_up(&self, changes: usize) -> sled::Result<()> {
        (0..changes).try_for_each(|_| self.db.contains_key(keys::group()).map(drop))
    }

    /// Hands all applied changes to the operating system.
    pub(crate) fn flush(&self) -> Result<(), SledError> {
        self.watch.over(|| {
            self.db.flush().map(drop).map_err(|source| SledError::sled("write to the database", &self.path, source))
        })
    }

    /// Syncs everything flushed, including the file's length, which sled's own flush omits on Linux.
    pub(crate) fn sync(&self) -> Result<(), SledError> {
        self.file.sync_data().map_err(|source| SledError::io("sync the database", &self.path, source))
    }

    /// Syncs what sled creates without syncing: its settings and the names of its files. Done at each start, because an earlier run may
    /// have been killed before this point.
    fn sync_beside(&self) -> Result<(), SledError> {
        let settings = self.path.join(SETTINGS);
        let synced = File::open(&settings).and_then(|file| file.sync_all());
        synced.map_err(|source| SledError::io("sync", &settings, source))?;
        sync_dir(&SystemFiles, &self.path)?;
        Ok(sync_parent(&SystemFiles, &self.path)?)
    }
}

/// Removes snapshots that sled did not finish: it would treat one as the latest and refuse to start. Snapshots are derived from the
/// log, which is complete without them.
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

/// Removes sled's settings if they are damaged: sled refuses to open a database with such a file, but writes the same settings again
/// if there is none. All of them are fixed here, so nothing is lost.
///
/// sled does not sync the file, so a power failure during the creation of a database can leave any part of it.
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
    tracing::warn!(path = %path.display(), "sled's settings are damaged; rewriting them");
    fs::remove_file(&path).map_err(|source| SledError::io("remove", &path, source))
}

/// Keeps sled's cache within its limit during a scan.
///
/// sled trims its cache only after 64 page visits in one of its 256 shards. A scan visits each page once, so thousands of pages, each
/// as large as 16 values, would accumulate first. One extra visit for each KiB read limits that to 16 MiB.
#[derive(Debug, Default)]
pub(crate) struct Pace(usize);

impl Pace {
    /// The bytes read between two extra visits.
    const VISIT_EVERY: usize = 1 << 10;

    /// Accounts for a value of `bytes` read under `key`.
    pub(crate) fn read(&mut self, tree: &sled::Tree, key: &[u8], bytes: usize) -> sled::Result<()> {
        self.0 += bytes;
        while self.0 >= Self::VISIT_EVERY {
            self.0 -= Self::VISIT_EVERY;
            tree.contains_key(key)?;
        }
        Ok(())
    }
}
