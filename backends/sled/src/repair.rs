//! The repair: copies valid records to a new database, which atomically replaces the old one. The old one is kept in `damaged/`.

use std::fs;
use std::io;
use std::path::Path;

use backend_embedded::SideFile;
use broker_core::storage::StorageError;
use broker_core::storage::check::{Inspector, Repaired, SideRecord};
use durable_files::{SystemFiles, sync_dir, sync_parent};
use sled::Batch;

use crate::check::Copy;
use crate::config::SledConfig;
use crate::database::Database;
use crate::error::SledError;
use crate::record_check::{RecordChecker, Verdict};
use crate::{compaction, directory, keys, sync_mark};

/// The bytes between two flushes.
const STEP: usize = 1 << 20;

/// Repairs the database. The directory must be locked.
pub(crate) fn repair(config: &SledConfig, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
    let dir = &config.path;
    let Some(found) = directory::find(dir)? else { return Ok(Repaired::default()) };
    for other in &found.others {
        remove(other)?;
    }
    let synced = found.has_conf.then(|| sync_mark::read(dir)).flatten();
    let path = directory::next(dir, &found.path);
    let mut side = SideFile::new(dir)?;
    let copy = Copy::of(&found.path)?;
    let filled = copy.with_database(config.cache_bytes, |old| fill(old, &path, config, synced, &mut side, inspector));
    if let Err(first) = filled {
        tracing::warn!(error = %first, "sled cannot read the database with its snapshots; retrying without them");
        remove(&path)?;
        let copy = Copy::of(&found.path)?;
        copy.remove_snapshots()?;
        copy.with_database(config.cache_bytes, |old| fill(old, &path, config, synced, &mut side, inspector)).map_err(
            |second| {
                tracing::error!(error = %second, "sled cannot read the database without its snapshots either");
                let _the_next_start_removes_the_rest = remove(&path);
                StorageError::from(SledError::Hopeless { path: found.path.clone() })
            },
        )?;
    }
    let mut side_files: Vec<_> = side.finish()?.into_iter().collect();
    side_files.push(side.keep(&found.path, "sled")?);
    directory::set_current(dir, &path)?;
    compaction::discard(&found.path);
    Ok(Repaired { records: side.records(), side_files })
}

fn remove(path: &Path) -> Result<(), SledError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SledError::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Copies the valid records of the old database to a new one in `path`.
fn fill(
    old: &Database,
    path: &Path,
    config: &SledConfig,
    synced: Option<u64>,
    side: &mut SideFile,
    inspector: &mut dyn Inspector,
) -> Result<(), StorageError> {
    let new = Database::open(path, config.cache_bytes)?;
    let reading = |source| SledError::sled("read", &old.path, source);
    let writing = |source| SledError::sled("write to the database", path, source);
    let (mut batch, mut bytes, mut done) = (Batch::default(), 0, 0);
    let checker = RecordChecker::new(old, synced)?;
    checker.each(&mut |key, value, verdict| {
        match verdict {
            Verdict::Good => {
                for part in old.db.scan_prefix(keys::parts(key)) {
                    let (part, value) = part.map_err(reading)?;
                    bytes += part.len() + value.len();
                    batch.insert(part, value);
                }
                bytes += key.len() + value.len();
                batch.insert(key, value);
            }
            Verdict::Out(what) => set_aside(side, &checker, key, value, what)?,
            Verdict::Mended(what, mended) => {
                set_aside(side, &checker, key, value, &what)?;
                mended.into_iter().for_each(|(key, value)| batch.insert(key, value));
            }
        }
        if bytes >= STEP {
            new.db.apply_batch(std::mem::take(&mut batch)).map_err(writing)?;
            new.flush()?;
            done += bytes as u64;
            bytes = 0;
            inspector.progress(done, done);
        }
        Ok(())
    })?;
    new.db.apply_batch(batch).map_err(writing)?;
    new.flush()?;
    new.sync()?;
    sync_dir(&SystemFiles, path)?;
    sync_parent(&SystemFiles, path)?;
    Ok(())
}

fn set_aside(
    side: &mut SideFile,
    checker: &RecordChecker<'_>,
    key: &[u8],
    value: &[u8],
    what: &str,
) -> Result<(), SledError> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let at = format!("key {hex}: {}", checker.describe(key));
    Ok(side.take(SideRecord { file: "sled", at: &at, what, bytes: value })?)
}
