//! Giving space back. sled uses the space of what was removed again, but its file hardly ever gets shorter; so a database that
//! holds little in a large file is copied to a new one.

use std::path::Path;
use std::sync::Arc;

use backend_embedded::sync_dir;
use sled::Batch;

use crate::config::SledConfig;
use crate::database::{Database, Pace};
use crate::directory;
use crate::error::SledError;
use crate::shared::bytes_below;

/// A file that is shorter than this is left alone.
const WORTH_IT: u64 = 32 << 20;

/// What is live may be at most this part of the file when the database is opened; sled itself needs about half.
const SHARE: u64 = 4;

/// While the broker runs, the database is copied only if what is live can be copied in a fraction of a second.
const LITTLE: u64 = 8 << 20;

/// Bytes copied with one flush.
const STEP: usize = 1 << 20;

/// Whether opening should copy a database in which so many bytes are live.
pub(crate) fn is_worth_it_at_start(database: &Database, live: u64) -> bool {
    let bytes = bytes_below(&database.path);
    bytes > WORTH_IT && bytes / SHARE > live
}

/// Whether an idle writer should copy it: hardly anything is live. Looks at no more than that little.
pub(crate) fn is_worth_it_when_idle(database: &Database) -> Result<bool, SledError> {
    let bytes = bytes_below(&database.path);
    if bytes <= WORTH_IT {
        return Ok(false);
    }
    let limit = LITTLE.min(bytes / SHARE);
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

/// Copies the live records to a new database and makes that the current one. Nobody writes meanwhile. Whatever does not check is
/// copied as it is. If it is interrupted, the old database is still the current one.
pub(crate) fn rebuild(config: &SledConfig, old: &Database) -> Result<Arc<Database>, SledError> {
    let dir: &Path = &config.path;
    let path = directory::next(dir, &old.path);
    let new = Database::open(&path, config.cache_bytes)?;
    let reading = |source| SledError::sled("read", &old.path, source);
    let writing = |source| SledError::sled("write to the database", &path, source);
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
    sync_dir(&path)?;
    directory::set_current(dir, &path)?;
    tracing::info!(path = %path.display(), bytes = bytes_below(&path), before = bytes_below(&old.path), "rebuilt the database");
    Ok(Arc::new(new))
}

/// Removes a database that is not the current one any more. Its handles may still be in use: they read on without its name.
pub(crate) fn discard(old: &Path) {
    if let Err(error) = std::fs::remove_dir_all(old) {
        tracing::warn!(path = %old.display(), %error, "what a rebuild has replaced is removed at the next start");
    }
}
