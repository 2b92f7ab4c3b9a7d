//! Identifies foreign content in a directory before a storage uses it.
//!
//! A storage uses only a directory that is empty or its own: a mistyped path must not mix a broker's files with a user's, and a
//! changed `storage.kind` must not start an empty broker beside existing data.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use crate::error::FileError;
use crate::files::{Files, OpenMode, read_full};
use crate::lock::{LOCK_FILE, is_note};

/// The bytes read from the start of a file; longer than any signature below.
const START: usize = 1024;

/// Describes the content of `dir` besides the entries named in `own`; `None` if there is none. `lost+found`, dot-files and
/// Herald's lock file do not count. Changes nothing.
///
/// # Errors
/// The operating system's; `NotFound` if the directory does not exist.
pub fn occupant(files: &dyn Files, dir: &Path, own: &[&str]) -> Result<Option<String>, FileError> {
    let trouble = |source| FileError::io("list", dir, source);
    let mut names: BTreeSet<OsString> = files.names(dir).map_err(trouble)?.into_iter().collect();
    names.retain(|name| !counts_as_empty(name) && !own.iter().any(|own| name == OsStr::new(own)));
    let regular: Vec<OsString> = files.list(dir).map_err(trouble)?.into_iter().map(|entry| entry.name).collect();
    if names.contains(OsStr::new(LOCK_FILE))
        && regular.iter().any(|name| name == LOCK_FILE)
        && is_note(&beginning(files, &dir.join(LOCK_FILE))?)
    {
        names.remove(OsStr::new(LOCK_FILE));
    }
    // By names alone, because the database's `conf` may be damaged.
    if names.contains(OsStr::new("conf")) && names.contains(OsStr::new("db")) {
        return Ok(Some("the directory of a sled database".to_owned()));
    }
    for name in regular.iter().filter(|name| names.contains(*name)) {
        let start = beginning(files, &dir.join(name))?;
        if start.starts_with(b"SQLite format 3\0") {
            return Ok(Some("the directory of an SQLite database".to_owned()));
        }
        if start.starts_with(br#"{"herald":"json-log""#) {
            return Ok(Some("the directory of a JSON log".to_owned()));
        }
        if start.starts_with(br#"{"herald":"sled""#) || (name == "conf" && start.starts_with(b"segment_size:")) {
            return Ok(Some("the directory of a sled database".to_owned()));
        }
    }
    let more = names.len().saturating_sub(1);
    Ok(names.first().map(|first| {
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("a directory that holds something else ({}{more})", first.display())
    }))
}

fn counts_as_empty(name: &OsStr) -> bool {
    name == "lost+found" || name.as_encoded_bytes().starts_with(b".")
}

/// The first bytes of a regular file; empty if it was removed after it was listed.
fn beginning(files: &dyn Files, path: &Path) -> Result<Vec<u8>, FileError> {
    let mut start = vec![0; START];
    let read = files.open(path, OpenMode::Read).and_then(|file| read_full(&*file, &mut start, 0));
    match read {
        Ok(read) => start.truncate(read),
        Err(error) if error.kind() == io::ErrorKind::NotFound => start.clear(),
        Err(source) => return Err(FileError::io("read", path, source)),
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::system::SystemFiles;

    #[test]
    fn lost_and_found_dot_files_and_a_lock_of_ours_count_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        fs::create_dir(dir.path().join(".snapshot")).unwrap();
        fs::write(dir.path().join(".hidden"), "x").unwrap();
        for note in ["", "{\"pid\":1,\"host\":\"a\",\"started\":0}\n", "{\"pid\":1,\"ho", "\0\0\0\0"] {
            fs::write(dir.path().join("LOCK"), note).unwrap();
            assert_eq!(occupant(&SystemFiles, dir.path(), &[]).unwrap(), None, "{note:?}");
        }
    }

    #[test]
    fn anything_else_is_named() {
        for (name, content, wanted) in [
            ("notes.txt", "mine", "notes.txt"),
            ("LOCK", "of another program", "LOCK"),
            ("any", "SQLite format 3\0", "SQLite"),
            ("any", "{\"herald\":\"json-log\"", "JSON log"),
            ("conf", "{\"herald\":\"sled\"", "sled"),
            ("conf", "segment_size: 524288", "sled"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), content).unwrap();
            let what = occupant(&SystemFiles, dir.path(), &["own"]).unwrap().unwrap();
            assert!(what.contains(wanted), "{name}: {what}");
            assert_eq!(occupant(&SystemFiles, dir.path(), &[name]).unwrap(), None, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("LOCK")).unwrap();
        fs::create_dir(dir.path().join("photos")).unwrap();
        let what = occupant(&SystemFiles, dir.path(), &[]).unwrap().unwrap();
        assert!(what.contains("LOCK and 1 more"), "{what}");
    }
}
