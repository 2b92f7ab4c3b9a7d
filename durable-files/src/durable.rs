//! Durable changes to a directory: each function returns only after the directory is synced.

use std::io;
use std::path::Path;

use crate::error::FileError;
use crate::files::{Files, OpenMode};

/// The directory that holds the name of `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates `dir` with its missing parents, durably: a power failure must not remove the directory together with everything
/// confirmed in it.
///
/// # Errors
/// The operating system's.
pub fn create_dir(files: &dyn Files, dir: &Path) -> Result<(), FileError> {
    files.create_dir(dir).map_err(|source| FileError::io("create the directory", dir, source))
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// The operating system's, with the directory.
pub fn sync_dir(files: &dyn Files, dir: &Path) -> Result<(), FileError> {
    files.sync_dir(dir).map_err(|source| FileError::io("sync", dir, source))
}

/// Makes the name of `path` durable by syncing its directory.
///
/// # Errors
/// The operating system's, with the directory.
pub fn sync_parent(files: &dyn Files, path: &Path) -> Result<(), FileError> {
    sync_dir(files, parent_of(path))
}

/// Renames a file or directory within its directory, durably. An existing file of the new name is replaced atomically.
///
/// `from` must be synced already, or power loss could leave the new name with nothing behind it.
///
/// # Errors
/// The operating system's. Afterwards either name may exist.
pub fn rename(files: &dyn Files, from: &Path, to: &Path) -> Result<(), FileError> {
    files.rename(from, to).map_err(|source| FileError::io("replace", to, source))?;
    sync_parent(files, to)
}

/// Removes a file, durably, and returns whether it existed. The directory is synced either way, because an earlier, interrupted
/// removal may not be durable yet.
///
/// # Errors
/// The operating system's.
pub fn remove(files: &dyn Files, path: &Path) -> Result<bool, FileError> {
    let removed = unlink_if_there(files, path)?;
    sync_parent(files, path)?;
    Ok(removed)
}

/// Replaces the content of `path` atomically and durably: after a power failure the file has either its old content or the new.
///
/// The content is written to `draft`, a name in the same directory that nothing reads, and synced before the rename.
///
/// # Errors
/// The operating system's. Afterwards the file has either its old content or the new.
pub fn replace(files: &dyn Files, path: &Path, draft: &Path, content: &[u8]) -> Result<(), FileError> {
    // An interrupted attempt may have left a draft behind.
    unlink_if_there(files, draft)?;
    let file = files.open(draft, OpenMode::CreateNew).map_err(|source| FileError::io("create", draft, source))?;
    file.write_all_at(content, 0).map_err(|source| FileError::io("write to", draft, source))?;
    // Synced before the rename, or the name could survive a power failure while the content does not.
    file.sync().map_err(|source| FileError::io("sync", draft, source))?;
    rename(files, draft, path)
}

fn unlink_if_there(files: &dyn Files, path: &Path) -> Result<bool, FileError> {
    match files.unlink(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FileError::io("remove", path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SystemFiles;

    #[test]
    fn replacing_discards_an_interrupted_draft() {
        let dir = tempfile::tempdir().unwrap();
        let (path, draft) = (dir.path().join("a"), dir.path().join("a.new"));
        std::fs::write(&path, "old").unwrap();
        std::fs::write(&draft, "a longer draft that an interruption left").unwrap();
        replace(&SystemFiles, &path, &draft, b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert!(!draft.exists());
    }

    #[test]
    fn removing_reports_whether_the_file_existed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        assert!(remove(&SystemFiles, &path).unwrap());
        assert!(!remove(&SystemFiles, &path).unwrap());
    }

    #[test]
    fn missing_parents_are_created() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(&SystemFiles, &dir.path().join("a/b/c")).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        create_dir(&SystemFiles, &dir.path().join("a/b/c")).unwrap();
    }
}
