//! Frees space. sled reuses the space of removed records, but its file rarely shrinks. So a database with little live data in a
//! large file is copied to a new one.

use std::path::Path;
use std::sync::Arc;

use durable_files::{SystemFiles, sync_dir};
use sled::Batch;

use crate::config::SledConfig;
use crate::database::{Database, Pace};
use crate::directory;
use crate::error::SledError;

/// The shortest file worth compacting.
const WORTH_IT: u64 = 32 << 20;

/// At a start, a file is compacted if less than this fraction of it, 1/4, is live. sled itself needs about half.
const SHARE: u64 = 4;

/// While the broker runs, a database is compacted only if less than this is live, so that copying takes a fraction of a second.
const LITTLE: u64 = 8 << 20;

/// The size of a new, almost empty database.
const NEW: u64 = 256 << 10;

/// The bytes between two flushes.
const STEP: usize = 1 << 20;

/// Whether a start should compact a database with this many live bytes.
pub(crate) fn is_worth_it_at_start(database: &Database, live: u64) -> bool {
    let bytes = directory::bytes_below(&database.path);
    bytes > WORTH_IT && bytes / SHARE > live
}

/// Whether an idle writer should compact the database, because little of it is live. Stops reading once it is not worthwhile.
pub(crate) fn is_worth_it_when_idle(database: &Database) -> Result<bool, SledError> {
    let bytes = directory::bytes_below(&database.path);
    if bytes <= WORTH_IT {
        return Ok(false);
    }
    is_at_most(database, LITTLE.min(bytes / SHARE))
}

/// Whether to compact the database on a full disk with `free` bytes left: it must free more than half of the file, and the copy must
/// fit. Stops reading once it is not worthwhile.
pub(crate) fn is_worth_it_when_full(database: &Database, free: u64) -> Result<bool, SledError> {
    let limit = LITTLE.min(directory::bytes_below(&database.path) / SHARE).min(free.saturating_sub(NEW) / SHARE);
    is_at_most(database, limit)
}

/// Whether at most `limit` bytes are live.
fn is_at_most(database: &Database, limit: u64) -> Result<bool, SledError> {
    let mut live = 0;
    for item in database.db.iter() {
        let (key, value) = item.map_err(|source| SledError::sled("read", &database.path, source))?;
        live += (key.len() + value.len()) as u64;
        if live > limit {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies the live records to a new database and makes it the current one. Nothing else may write at the same time. Damaged records
/// are copied unchanged. After a failure the old database is still the current one, unless [`directory::is_current`] denies it, and
/// the copy is removed.
pub(crate) fn compact(config: &SledConfig, old: &Database) -> Result<Arc<Database>, SledError> {
    let dir: &Path = &config.path;
    let path = directory::next(dir, &old.path);
    let copied = copy(config, old, &path);
    match copied.and_then(|new| directory::set_current(dir, &path).map(|()| new)) {
        Ok(new) => {
            tracing::info!(path = %path.display(), bytes = directory::bytes_below(&path), before = directory::bytes_below(&old.path), "compacted the database");
            Ok(Arc::new(new))
        }
        Err(error) => {
            // The next attempt must not find records in the copy that have been removed since.
            if directory::is_current(dir, &old.path) {
                discard(&path);
            }
            Err(error)
        }
    }
}

/// Copies the live records to a new database in `path`, and syncs it.
fn copy(config: &SledConfig, old: &Database, path: &Path) -> Result<Database, SledError> {
    let new = Database::open(path, config.cache_bytes)?;
    let reading = |source| SledError::sled("read", &old.path, source);
    let writing = |source| SledError::sled("write to the database", path, source);
    let (mut batch, mut bytes, mut pace) = (Batch::default(), 0, Pace::default());
    for item in old.db.iter() {
        let (key, value) = item.map_err(reading)?;
        pace.read(&old.db, &key, value.len()).map_err(reading)?;
        bytes += key.len() + value.len();
        batch.insert(key, value);
        if bytes >= STEP {
            new.db.apply_batch(std::mem::take(&mut batch)).map_err(writing)?;
            new.flush()?;
            bytes = 0;
        }
    }
    new.db.apply_batch(batch).map_err(writing)?;
    new.flush()?;
    new.sync()?;
    sync_dir(&SystemFiles, path)?;
    Ok(new)
}

/// Removes a database that was replaced. Open handles may still read from it: an unlinked file stays readable.
pub(crate) fn discard(old: &Path) {
    if let Err(error) = std::fs::remove_dir_all(old) {
        tracing::warn!(path = %old.display(), %error, "cannot remove the replaced database; the next start removes it");
    }
}
