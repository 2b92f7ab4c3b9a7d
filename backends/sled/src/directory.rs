//! What a data directory holds, and what opening it refuses.
//!
//! ```text
//! data/
//!   LOCK            who has it
//!   conf            one line of JSON: what this is, its format version, which database is the current one
//!   db/000001/      a sled database; its number grows when it is rebuilt
//!   mark            how far it is known to be synced
//!   damaged/        what repairs have moved out
//! ```
//!
//! `conf` and `db` are also what a plain sled database has at its top, which other storages know how to recognize.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use backend_embedded::sync_dir;
use serde::{Deserialize, Serialize};

use crate::error::SledError;
use crate::mark;
use crate::record::VERSION;

const CONF: &str = "conf";
const DATABASES: &str = "db";

/// The one line of `conf`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Conf {
    herald: String,
    version: u64,
    database: String,
}

/// Looks at the directory without touching it. Returns whether there is a directory at all.
pub(crate) fn look(dir: &Path) -> Result<bool, SledError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(SledError::io("list", dir, source)),
    };
    let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|source| SledError::io("list", dir, source))?;
    if read_conf(dir)?.is_some() {
        return Ok(true);
    }
    if dir.join(DATABASES).is_file() {
        return Err(SledError::Foreign { path: dir.to_owned(), what: "damaged, or a sled database".to_owned() });
    }
    // Someone who changes `storage.kind` must not find an empty broker where there was a full one.
    for entry in entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        let path = entry.path();
        let start = first_bytes(&path)?;
        let what = if start.starts_with(b"SQLite format 3\0") {
            "an SQLite database"
        } else if start.starts_with(b"{\"herald\":\"json-log\"") {
            "a JSON log"
        } else {
            continue;
        };
        return Err(SledError::Foreign { path, what: what.to_owned() });
    }
    Ok(true)
}

/// Makes the data directory with its missing parents. Their names are synced: a power failure must not take the directory away with
/// everything that was confirmed in it.
pub(crate) fn make(dir: &Path) -> Result<(), SledError> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<_> = dir.ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(SledError::io("make the directory", dir, error));
            }
            _ => {}
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or_else(|| Path::new(".")))?;
    }
    Ok(())
}

fn first_bytes(path: &Path) -> Result<Vec<u8>, SledError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1024).read_to_end(&mut start));
    read.map(|_| start).map_err(|source| SledError::io("read", path, source))
}

/// What `conf` says, if it is there.
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

/// Databases are called by numbers of six digits; everything else in their folder is somebody else's.
fn number(name: &str) -> Option<u32> {
    (name.len() == 6 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok()).flatten()
}

fn list(dir: &Path) -> Result<Vec<u32>, SledError> {
    let path = dir.join(DATABASES);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(SledError::io("list", &path, source)),
    };
    let mut numbers: Vec<_> = entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(DATABASES).join(format!("{number:06}"))
}

/// Where the current database is, or is to be made; the directory is locked. What an interrupted rebuild left is removed.
///
/// Whether there was none is the second part of the answer.
pub(crate) fn current(dir: &Path) -> Result<(PathBuf, bool), SledError> {
    let found = list(dir)?;
    let Some(conf) = read_conf(dir)? else {
        return match found[..] {
            [] => Ok((path_of(dir, 1), true)),
            // Killed between making it and naming it, or the file was lost; there is no doubt about which one it is.
            [only] => Ok((path_of(dir, only), false)),
            _ => Err(SledError::Foreign {
                path: dir.to_owned(),
                what: format!(
                    "without its file {CONF}, which says which of {} databases is the current one",
                    found.len()
                ),
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
        tracing::info!(path = %path.display(), "removed what an interrupted rebuild had left");
        fs::remove_dir_all(&path).map_err(|source| SledError::io("remove", &path, source))?;
    }
    Ok((path_of(dir, current), false))
}

/// Makes the first database in `path`, by `make`, whole or not at all: sled does not open what it has made by half.
pub(crate) fn make_first(
    dir: &Path,
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), SledError>,
) -> Result<(), SledError> {
    let databases = dir.join(DATABASES);
    let draft = databases.join("making");
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SledError::io("remove", &draft, error)),
        _ => {}
    }
    fs::create_dir_all(&draft).map_err(|source| SledError::io("make", &draft, source))?;
    sync_dir(dir)?;
    make(&draft)?;
    fs::rename(&draft, path).map_err(|source| SledError::io("make", path, source))?;
    Ok(sync_dir(&databases)?)
}

/// What [`current`] would find, without a change.
#[derive(Debug)]
pub(crate) struct Found {
    /// The current database.
    pub(crate) path: PathBuf,
    /// What interrupted rebuilds and repairs have left.
    pub(crate) others: Vec<PathBuf>,
    /// Whether the file that says which one is the current one is there.
    pub(crate) has_conf: bool,
}

/// Finds the current database; `None`: there is none yet.
pub(crate) fn find(dir: &Path) -> Result<Option<Found>, SledError> {
    let found = list(dir)?;
    let conf = read_conf(dir)?;
    let foreign = |what: String| Err(SledError::Foreign { path: dir.to_owned(), what });
    let current = match (&conf, &found[..]) {
        (None, []) => return Ok(None),
        (None, [only]) => *only,
        (None, _) => {
            return foreign(format!(
                "without its file {CONF}, which says which of {} databases is the current one",
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

/// Where the database that comes after `path` is to be made.
pub(crate) fn next(dir: &Path, path: &Path) -> PathBuf {
    let current = path.file_name().and_then(|name| number(name.to_str()?)).unwrap_or_default();
    path_of(dir, current + 1)
}

/// Makes the database in `path`, which is complete and synced, the current one, in one step.
pub(crate) fn set_current(dir: &Path, path: &Path) -> Result<(), SledError> {
    let database = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let conf = Conf { herald: "sled".to_owned(), version: u64::from(VERSION), database };
    if read_conf(dir)?.is_some_and(|now| now.database == conf.database) {
        return Ok(());
    }
    let (target, draft) = (dir.join(CONF), dir.join("conf.new"));
    let mut line = serde_json::to_string(&conf).unwrap_or_default();
    line.push('\n');
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(line.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| SledError::io("write", &draft, source))?;
    fs::rename(&draft, &target).map_err(|source| SledError::io("write", &target, source))?;
    Ok(sync_dir(dir)?)
}

/// Removes this storage's databases, and nothing else.
pub(crate) fn clean(dir: &Path) -> Result<(), SledError> {
    let found = list(dir)?;
    let conf = dir.join(CONF);
    match fs::remove_file(&conf) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SledError::io("remove", &conf, error)),
        _ => sync_dir(dir)?,
    }
    mark::remove(dir);
    for number in &found {
        let path = path_of(dir, *number);
        fs::remove_dir_all(&path).map_err(|source| SledError::io("remove", &path, source))?;
    }
    if !found.is_empty() {
        sync_dir(&dir.join(DATABASES))?;
        tracing::warn!(path = %dir.display(), "removed the database, as storage.clean_on_start says");
    }
    Ok(())
}
