//! The space of a file system: how much is left, and files that occupy real space.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::error::FileError;

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The size of the file system.
    pub total: u64,
    /// The space that this process may still use.
    pub free: u64,
}

/// The space of the file system that holds `path`; `None` where the system does not report it. Quotas are not included.
#[must_use]
pub fn space(path: &Path) -> Option<Space> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(Space { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }
    #[cfg(not(unix))]
    {
        let _unknown_here = path;
        None
    }
}

/// Creates or replaces the file `path` so that it occupies `bytes` of real space; its content means nothing. After an error the
/// file is removed.
///
/// # Errors
/// The operating system's; `StorageFull` or `QuotaExceeded` if less space is left.
pub fn allocate(path: &Path, bytes: u64) -> Result<(), FileError> {
    fill(path, bytes).map_err(|source| {
        let _there_may_be_none = fs::remove_file(path);
        FileError::io("allocate", path, source)
    })
}

fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Noise, because a compressing file system stores zeros in no space.
    let mut left = bytes;
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut block = Vec::with_capacity(64 << 10);
    while left > 0 {
        block.clear();
        while block.len() < 64 << 10 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        let now = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        file.write_all(&block[..now])?;
        left -= now as u64;
    }
    // Some systems notice a lack of space only here.
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocated_file_has_its_length_and_another_call_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        allocate(&path, 300_001).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 300_001);
        allocate(&path, 100).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 100);
    }

    #[test]
    fn what_cannot_be_allocated_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("reserve");
        allocate(&path, 100).unwrap_err();
        assert!(!path.exists());
        #[cfg(unix)]
        assert!(space(dir.path()).is_some_and(|space| space.total >= space.free));
    }
}
