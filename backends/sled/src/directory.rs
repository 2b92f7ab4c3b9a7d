//! The data directory: its files, what opening refuses, and which database is the current one.
//!
//! ```text
//! data/
//!   LOCK            the process that uses the directory
//!   conf            one line of JSON: the kind, the format version, and the name of the current database
//!   db/000001/      a sled database; a rebuilt one gets the next number
//!   reserve         space reserved for a full disk
//!   mark            how far the database is known to be synced
//!   damaged/        records moved out by repairs
//! ```
//!
//! A plain sled database also has `conf` and `db` at its top, so other storages recognize this directory as well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use broker_core::storage::check::SIDE_FOLDER;
use durable_files::{RESERVE_FILE, SystemFiles, create_dir, occupant, remove, rename, replace, sync_dir};
use serde::{Deserialize, Serialize};

use crate::error::SledError;
use crate::record::VERSION;
use crate::sync_mark::{self, MARK};

const CONF: &str = "conf";
const DATABASES: &str = "db";

/// The name in [`DATABASES`] under which the first database is created.
const DRAFT: &str = "making";

/// The one line of `conf`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Conf {
    herald: String,
    version: u64,
    database: String,
}

/// Checks that the directory is empty or holds a database, without changing it. Returns whether it holds a database.
pub(crate) fn look(dir: &Path) -> Result<bool, SledError> {
    fs::read_dir(dir).map_err(|source| SledError::io("list", dir, source))?;
    if read_conf(dir)?.is_some() || !list(dir)?.is_empty() {
        return Ok(true);
    }
    let mut own = vec![MARK, SIDE_FOLDER, RESERVE_FILE];
    if holds_only_a_draft(&dir.join(DATABASES))? {
        // The creation of the first database was interrupted.
        own.push(DATABASES);
    }
    match occupant(&SystemFiles, dir, &own)? {
        Some(what) => Err(SledError::Foreign { path: dir.to_owned(), what }),
        None => Ok(false),
    }
}

fn holds_only_a_draft(databases: &Path) -> Result<bool, SledError> {
    match fs::read_dir(databases) {
        Ok(mut entries) => Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == DRAFT))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(source) => Err(SledError::io("list", databases, source)),
    }
}

/// The content of `conf`, if it exists.
fn read_conf(dir: &Path) -> Result<Option<Conf>, SledError> {
    let path = dir.join(CONF);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SledError::io("read", &path, source)),
    };
    let foreign = |what: &str| Err(SledError::Foreign { path: path.clone(), what: what.to_owned() });
    if text.starts_with(b"segment_size:") {
        return foreign("the beginning of a sled database that is not Herald's");
    }
    match serde_json::from_slice::<Conf>(&text) {
        Ok(conf) if conf.herald != "sled" => foreign(&format!("of the kind \"{}\"", conf.herald)),
        Ok(conf) if conf.version > u64::from(VERSION) => {
            Err(SledError::NewerVersion { path, found: conf.version, known: u64::from(VERSION) })
        }
        Ok(conf) if number(&conf.database).is_none() => foreign("a file that names no database"),
        Ok(conf) => Ok(Some(conf)),
        Err(_) => foreign("a file of another kind, or damaged"),
    }
}

/// The number in a database's name: six digits. Anything else in the folder belongs to another program.
fn number(name: &str) -> Option<u32> {
    (name.len() == 6 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok()).flatten()
}

fn list(dir: &Path) -> Result<Vec<u32>, SledError> {
    let path = dir.join(DATABASES);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        // In a plain sled database, this is a file.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(SledError::io("list", &path, source)),
    };
    let mut numbers: Vec<_> = entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(DATABASES).join(format!("{number:06}"))
}

/// The path of the current database, and whether it must still be created. Removes the remains of an interrupted compaction. The
/// directory must be locked.
pub(crate) fn current(dir: &Path) -> Result<(PathBuf, bool), SledError> {
    let found = list(dir)?;
    let Some(conf) = read_conf(dir)? else {
        return match found[..] {
            [] => Ok((path_of(dir, 1), true)),
            // The process was killed before it wrote `conf`, or `conf` was lost. The only database is the current one.
            [only] => Ok((path_of(dir, only), false)),
            _ => Err(SledError::Foreign {
                path: dir.to_owned(),
                what: format!("without its file {CONF}, which names the current one of its {} databases", found.len()),
            }),
        };
    };
    let current = number(&conf.database).unwrap_or_default();
    if !found.contains(&current) {
        let what = format!("incomplete: the database {DATABASES}/{} is missing", conf.database);
        return Err(SledError::Foreign { path: dir.to_owned(), what });
    }
    for other in found.into_iter().filter(|other| *other != current) {
        let path = path_of(dir, other);
        tracing::info!(path = %path.display(), "removed the remains of an interrupted compaction");
        fs::remove_dir_all(&path).map_err(|source| SledError::io("remove", &path, source))?;
    }
    Ok((path_of(dir, current), false))
}

/// Creates the first database in `path` with `make`, atomically: sled does not open a partial one.
pub(crate) fn make_first(
    dir: &Path,
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), SledError>,
) -> Result<(), SledError> {
    let databases = dir.join(DATABASES);
    let draft = databases.join(DRAFT);
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SledError::io("remove", &draft, error)),
        _ => {}
    }
    create_dir(&SystemFiles, &draft)?;
    make(&draft)?;
    Ok(rename(&SystemFiles, &draft, path)?)
}

/// The result of [`find`]: the same as [`current`] finds, without any change.
#[derive(Debug)]
pub(crate) struct Found {
    /// The current database.
    pub(crate) path: PathBuf,
    /// The remains of interrupted compactions and repairs.
    pub(crate) others: Vec<PathBuf>,
    /// Whether `conf`, which names the current database, exists.
    pub(crate) has_conf: bool,
}

/// Finds the current database; `None` if there is none yet.
pub(crate) fn find(dir: &Path) -> Result<Option<Found>, SledError> {
    let found = list(dir)?;
    let conf = read_conf(dir)?;
    let foreign = |what: String| Err(SledError::Foreign { path: dir.to_owned(), what });
    let current = match (&conf, &found[..]) {
        (None, []) => return Ok(None),
        (None, [only]) => *only,
        (None, _) => {
            return foreign(format!(
                "without its file {CONF}, which names the current one of its {} databases",
                found.len()
            ));
        }
        (Some(conf), found) => match number(&conf.database).filter(|current| found.contains(current)) {
            Some(current) => current,
            None => return foreign(format!("incomplete: the database {DATABASES}/{} is missing", conf.database)),
        },
    };
    let others = found.into_iter().filter(|other| *other != current).map(|other| path_of(dir, other)).collect();
    Ok(Some(Found { path: path_of(dir, current), others, has_conf: conf.is_some() }))
}

/// The path for the database that replaces `path`.
pub(crate) fn next(dir: &Path, path: &Path) -> PathBuf {
    let current = path.file_name().and_then(|name| number(name.to_str()?)).unwrap_or_default();
    path_of(dir, current + 1)
}

/// Whether `conf` names the database in `path` as the current one; false if `conf` cannot be read.
pub(crate) fn is_current(dir: &Path, path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    matches!(read_conf(dir), Ok(Some(conf)) if Some(conf.database.as_str()) == name)
}

/// Makes `path` the current database, atomically. The database must be complete and synced, because `conf` must not name a partial
/// one.
pub(crate) fn set_current(dir: &Path, path: &Path) -> Result<(), SledError> {
    let database = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let conf = Conf { herald: "sled".to_owned(), version: u64::from(VERSION), database };
    if read_conf(dir)?.is_some_and(|now| now.database == conf.database) {
        return Ok(());
    }
    let (target, draft) = (dir.join(CONF), dir.join("conf.new"));
    let mut line = serde_json::to_string(&conf).unwrap_or_default();
    line.push('\n');
    Ok(replace(&SystemFiles, &target, &draft, line.as_bytes())?)
}

/// Removes this storage's databases and no other file.
pub(crate) fn clean(dir: &Path) -> Result<(), SledError> {
    let found = list(dir)?;
    remove(&SystemFiles, &dir.join(CONF))?;
    sync_mark::remove(dir);
    for number in &found {
        let path = path_of(dir, *number);
        fs::remove_dir_all(&path).map_err(|source| SledError::io("remove", &path, source))?;
    }
    if !found.is_empty() {
        sync_dir(&SystemFiles, &dir.join(DATABASES))?;
        tracing::warn!(path = %dir.display(), "removed the database, because storage.clean_on_start is set");
    }
    Ok(())
}

/// The total size of all files in `dir` and its folders; a file removed concurrently does not count.
pub(crate) fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
