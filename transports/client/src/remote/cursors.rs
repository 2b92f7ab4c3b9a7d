//! Where sources stand: one small file for each, replaced as a whole.
//!
//! A file is one line, `{"herald_cursor":1,"source":"…","cursor":"…","crc":"xxxxxxxx"}`, whose checksum is the CRC-32 of all
//! that stands before `,"crc"`. It is written beside its place, synced, renamed, and the directory synced: after a crash there
//! is the old one or the new one. A file that does not check is an error, because the beginning of a feed is the wrong place
//! to go on at.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use broker_core::engine::{Cursor, Offer};
use durable_files::{FileError, Lock, SystemFiles};
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// The longest file that is read. Cursors are resume tokens and SSE ids, of some hundred bytes; an event that stands aside can be
/// larger.
const MAX_FILE_BYTES: u64 = 128 << 20;

/// The extension of a cursor's file, and that of the file of an event that stands aside.
const EXTENSIONS: (&str, &str) = ("cursor", "aside");

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
        /// The process that has it locked.
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
        /// The check that fails.
        what: String,
    },
    /// The operating system refused an operation on a file or the directory.
    #[error(transparent)]
    File(FileError),
}

impl From<FileError> for CursorError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Locked { path, holder } => Self::Locked { dir: path, holder },
            error => Self::File(error),
        }
    }
}

/// Where a source stands after a batch.
pub(super) struct Stand {
    pub(super) source: String,
    /// The number of the batch: a newer batch's cursor is not replaced by an older one's.
    pub(super) number: u64,
    /// The events that stand aside from now on.
    pub(super) aside: Vec<Offer>,
    /// The cursor, if it has moved.
    pub(super) cursor: Option<String>,
    /// The numbers of the events that no longer stand aside.
    pub(super) gone: Vec<u32>,
}

/// The cursors below one directory.
pub(super) struct Cursors {
    dir: PathBuf,
    /// The number of the newest batch whose cursor was stored, by source. Held while a file is written.
    newest: Mutex<HashMap<String, u64>>,
    _lock: Lock,
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
        durable_files::create_dir(&SystemFiles, dir)?;
        let mut lock = Lock::acquire(&SystemFiles, dir)?;
        lock.sign()?;
        Ok(Self { dir: dir.to_owned(), newest: Mutex::default(), _lock: lock })
    }

    /// The cursor of `source`; `None`: it has none yet. Blocks.
    pub(super) fn get(&self, source: &str) -> Result<Option<String>, CursorError> {
        self.read(self.path(source, EXTENSIONS.0), source)
    }

    /// The events of `source` that stand aside, in their order. Blocks.
    pub(super) fn aside(&self, source: &str) -> Result<Vec<Offer>, CursorError> {
        let prefix = format!("{source}\n");
        let read = |error| FileError::io("read", &self.dir, error);
        let mut aside = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_none_or(|end| end != EXTENSIONS.1) {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|error| FileError::io("read", &path, error))?;
            let damaged =
                |what: String| CursorError::Damaged { source_name: source.to_owned(), path: path.clone(), what };
            let stored = parse_any(&bytes).map_err(damaged)?;
            if !stored.source.starts_with(&prefix) {
                continue;
            }
            let offer = Offer::parse_key(&stored.source).and_then(|(_, number)| Offer::decode(number, &stored.cursor));
            aside.push(offer.ok_or_else(|| damaged("it holds no event".to_owned()))?);
        }
        aside.sort_unstable_by_key(|offer| offer.order);
        Ok(aside)
    }

    /// Stores where a source stands; it survives a crash from then on. Blocks.
    pub(super) fn store(&self, stand: &Stand) -> Result<(), CursorError> {
        for offer in &stand.aside {
            let key = offer.key(&stand.source);
            let path = self.path(&key, EXTENSIONS.1);
            let written = encode(&Cursor { source: key, value: offer.encode() });
            durable_files::replace(&SystemFiles, &path, &path.with_extension("aside-tmp"), &written)?;
        }
        if let Some(value) = &stand.cursor {
            self.put(&Cursor { source: stand.source.clone(), value: value.clone() }, stand.number)?;
        }
        for number in &stand.gone {
            let path = self.path(&Offer::key_of(&stand.source, *number), EXTENSIONS.1);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError::io("remove", &path, error).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The cursor in a file; `None`: there is none. Blocks.
    fn read(&self, path: PathBuf, source: &str) -> Result<Option<String>, CursorError> {
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::io("read", &path, error).into()),
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
        let path = self.path(&cursor.source, EXTENSIONS.0);
        durable_files::replace(&SystemFiles, &path, &path.with_extension("tmp"), &encode(cursor))?;
        newest.insert(cursor.source.clone(), number);
        Ok(())
    }

    /// The file of `source`: what can be read of its name, and a digest of all of it, because a name may be anything.
    fn path(&self, source: &str, extension: &str) -> PathBuf {
        const SHOWN: usize = 64;
        let shown: String = source
            .chars()
            .take(SHOWN)
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
            .collect();
        let mut hasher = SipHasher13::new();
        hasher.write(source.as_bytes());
        self.dir.join(format!("{shown}-{:032x}.{extension}", hasher.finish128().as_u128()))
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
    let stored = parse_any(bytes)?;
    if stored.source != source {
        return Err(format!("it is that of source {:?}", stored.source));
    }
    Ok(stored.cursor)
}

/// The contents of a file, or what is wrong with them.
fn parse_any(bytes: &[u8]) -> Result<Stored, String> {
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
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let path = cursors.path("s", EXTENSIONS.0);
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
