//! Where sources stand: one small file for each, replaced as a whole.
//!
//! A file is one line, `{"herald_cursor":1,"source":"…","cursor":"…","crc":"xxxxxxxx"}`, whose checksum is the CRC-32 of all
//! that stands before `,"crc"`. It is written beside its place, synced, renamed, and the directory synced: after a crash there
//! is the old one or the new one. A file that does not check is an error, because the beginning of a feed is the wrong place
//! to go on at.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::Hasher as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use broker_core::engine::Cursor;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// Holds the lock; what it says is for people and error messages.
const LOCK_FILE: &str = "LOCK";

/// The longest file that is read. Cursors are resume tokens and SSE ids, of some hundred bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why the cursors of sources cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// Another process has the directory.
    #[error(
        "{} is in use by {holder}: the places of sources have one process at a time; stop it, or set publish.path", .dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// A file does not hold what was written.
    #[error(
        "the place of source {source_name} in its feed is not known: {} is damaged ({what}). Put back a copy of the file, or \
         remove it to read the feed from where it begins for a new reader; what came in between is missed then", .path.display()
    )]
    Damaged {
        /// The source.
        source_name: String,
        /// The file.
        path: PathBuf,
        /// What does not check.
        what: String,
    },
    /// The operating system refused.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// The cursors below one directory.
pub(super) struct Cursors {
    dir: PathBuf,
    /// The number of the newest batch whose cursor was stored, by source. Held while a file is written.
    newest: Mutex<HashMap<String, u64>>,
    // Closing the file ends the lock; the file stays, because removing it would let two processes lock two files.
    _lock: File,
}

#[derive(Serialize)]
struct Written<'a> {
    herald_cursor: u32,
    source: &'a str,
    cursor: &'a str,
}

#[derive(Deserialize)]
struct Stored {
    herald_cursor: u32,
    source: String,
    cursor: String,
}

impl Cursors {
    /// Takes `dir`, and makes it if it is not there.
    pub(super) fn open(dir: &Path) -> Result<Self, CursorError> {
        create(dir).map_err(|source| CursorError::Io { what: "make", path: dir.to_owned(), source })?;
        let path = dir.join(LOCK_FILE);
        let io = |source| CursorError::Io { what: "lock", path: path.clone(), source };
        let mut lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _unreadable = lock.take(100).read_to_string(&mut holder);
                let holder = match holder.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".to_owned(),
                };
                return Err(CursorError::Locked { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(io)?;
        Ok(Self { dir: dir.to_owned(), newest: Mutex::default(), _lock: lock })
    }

    /// The cursor of `source`; `None`: it has none yet. Blocks.
    pub(super) fn get(&self, source: &str) -> Result<Option<String>, CursorError> {
        let path = self.path(source);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CursorError::Io { what: "read", path, source: error }),
        }
        match parse(&bytes, source) {
            Ok(cursor) => Ok(Some(cursor)),
            Err(what) => Err(CursorError::Damaged { source_name: source.to_owned(), path, what }),
        }
    }

    /// Stores a cursor; it survives a crash from then on. `number` is that of its batch: a newer batch's cursor is not
    /// replaced by an older one's. Blocks.
    pub(super) fn put(&self, cursor: &Cursor, number: u64) -> Result<(), CursorError> {
        // A panic under the lock leaves what is below true, or too small, which only repeats a write.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.get(&cursor.source).is_some_and(|newest| *newest > number) {
            return Ok(());
        }
        let path = self.path(&cursor.source);
        let beside = path.with_extension("tmp");
        write(&beside, &encode(cursor)).map_err(|source| CursorError::Io {
            what: "write",
            path: beside.clone(),
            source,
        })?;
        let renamed = fs::rename(&beside, &path).and_then(|()| sync_dir(&self.dir));
        renamed.map_err(|source| CursorError::Io { what: "replace", path, source })?;
        newest.insert(cursor.source.clone(), number);
        Ok(())
    }

    /// The file of `source`: what can be read of its name, and a digest of all of it, because a name may be anything.
    fn path(&self, source: &str) -> PathBuf {
        const SHOWN: usize = 64;
        let shown: String = source
            .chars()
            .take(SHOWN)
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
            .collect();
        let mut hasher = SipHasher13::new();
        hasher.write(source.as_bytes());
        self.dir.join(format!("{shown}-{:032x}.cursor", hasher.finish128().as_u128()))
    }
}

fn encode(cursor: &Cursor) -> Vec<u8> {
    let written = Written { herald_cursor: FORMAT, source: &cursor.source, cursor: &cursor.value };
    let mut line = serde_json::to_vec(&written).expect("strings and a number have a JSON form");
    line.pop();
    let crc = crc32fast::hash(&line);
    line.extend_from_slice(format!(",\"crc\":\"{crc:08x}\"}}\n").as_bytes());
    line
}

/// The cursor in a file of `source`, or what is wrong with it.
fn parse(bytes: &[u8], source: &str) -> Result<String, String> {
    const TAIL: usize = ",\"crc\":\"00000000\"}\n".len();
    let at = bytes.len().checked_sub(TAIL).ok_or_else(|| format!("it has {} bytes", bytes.len()))?;
    let (body, tail) = bytes.split_at(at);
    if tail != format!(",\"crc\":\"{:08x}\"}}\n", crc32fast::hash(body)).as_bytes() {
        return Err("its checksum does not match".to_owned());
    }
    let mut whole = body.to_vec();
    whole.push(b'}');
    let stored: Stored = serde_json::from_slice(&whole).map_err(|error| error.to_string())?;
    if stored.herald_cursor != FORMAT {
        return Err(format!("its format is {}, and this version reads {FORMAT}", stored.herald_cursor));
    }
    if stored.source != source {
        return Err(format!("it is that of source {:?}", stored.source));
    }
    Ok(stored.cursor)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    // Before it is renamed: a name that survives a power failure must not be that of an empty file.
    file.sync_all()
}

/// Makes a directory and those above it; the name of each is synced.
fn create(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    // Windows has no handle of a directory to sync; there a file's own sync covers its entry.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(source: &str, value: &str) -> Cursor {
        Cursor { source: source.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn a_cursor_is_found_again_whatever_the_name_of_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        let long = "x".repeat(255);
        let names = ["wikipedia", "../../etc/passwd", "", "é ü", "a/b", "a_b", long.as_str()];
        let cursors = Cursors::open(&below).unwrap();
        for (n, name) in names.iter().enumerate() {
            assert_eq!(cursors.get(name).unwrap(), None);
            cursors.put(&cursor(name, &format!("[{{\"n\":{n}}}]\n")), 1).unwrap();
        }
        drop(cursors);
        let cursors = Cursors::open(&below).unwrap();
        for (n, name) in names.iter().enumerate() {
            assert_eq!(cursors.get(name).unwrap(), Some(format!("[{{\"n\":{n}}}]\n")), "{name}");
        }
        assert_eq!(fs::read_dir(&below).unwrap().count(), names.len() + 1, "each its own, and the lock");
    }

    #[test]
    fn an_older_batch_does_not_move_a_cursor_back() {
        let dir = tempfile::tempdir().unwrap();
        let cursors = Cursors::open(dir.path()).unwrap();
        cursors.put(&cursor("s", "new"), 7).unwrap();
        cursors.put(&cursor("s", "old"), 6).unwrap();
        assert_eq!(cursors.get("s").unwrap().as_deref(), Some("new"));
    }

    #[test]
    fn any_changed_or_missing_byte_is_found_out_and_explained() {
        let dir = tempfile::tempdir().unwrap();
        let cursors = Cursors::open(dir.path()).unwrap();
        cursors.put(&cursor("s", "17"), 1).unwrap();
        let path = cursors.path("s");
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole[..18], *b"{\"herald_cursor\":1", "the format of released files");
        let mut broken: Vec<Vec<u8>> = (0..whole.len()).map(|len| whole[..len].to_vec()).collect();
        broken.extend((0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        }));
        for bytes in broken {
            fs::write(&path, &bytes).unwrap();
            let error = cursors.get("s").unwrap_err();
            assert!(matches!(error, CursorError::Damaged { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("source s") && text.contains("remove it"), "{text}");
        }
        fs::write(&path, encode(&cursor("other", "17"))).unwrap();
        assert!(cursors.get("s").unwrap_err().to_string().contains("other"), "a file under another's name");
    }

    #[test]
    fn two_cannot_share_a_directory_and_the_error_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Cursors::open(dir.path()).unwrap();
        let Err(error) = Cursors::open(dir.path()) else { panic!("both have it") };
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Cursors::open(dir.path()).unwrap();
    }
}
