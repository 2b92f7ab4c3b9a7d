//! Names the processes that read the database, from the system's list of locks.
//!
//! Asking for a lock's holder would need a handle on the file, and closing that would release SQLite's own locks. Reading the list
//! needs no such handle.

use std::path::Path;

/// The other processes with a snapshot of the database in `dir`, as `4711 (sqlite3)`. Empty if the system has no such list.
#[cfg(target_os = "linux")]
pub(crate) fn of(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let [.., index] = crate::directory::files(dir);
    let Ok(inode) = std::fs::metadata(index).map(|metadata| metadata.ino()) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut holders: Vec<u32> = locks.lines().filter_map(|line| holder(line, inode)).collect();
    holders.sort_unstable();
    holders.dedup();
    holders.retain(|holder| *holder != std::process::id());
    holders.into_iter().map(describe).collect()
}

/// Whether another process has the database in `dir` open. False where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn has_other_processes(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let [.., index] = crate::directory::files(dir);
    let Ok(inode) = std::fs::metadata(index).map(|metadata| metadata.ino()) else { return false };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    // Every connection holds a lock on byte 128 of the index.
    locks.lines().filter_map(|line| holder_of(line, inode, 123, 128)).any(|holder| holder != std::process::id())
}

/// Whether another process has the database in `dir` open: unknown on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn has_other_processes(_dir: &Path) -> bool {
    false
}

/// The processes with a snapshot of the database in `dir`, which are unknown on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn of(_dir: &Path) -> Vec<String> {
    Vec::new()
}

/// The process in a line of `/proc/locks`, if the line is a snapshot in the index with this inode. Such a line is
/// `1: POSIX ADVISORY READ 4711 fd:01:77 124 124`.
///
/// SQLite locks one byte of the index for each purpose: 120 to 122 for writing and recovery, 123 to 127 for the five snapshots.
#[cfg(target_os = "linux")]
fn holder(line: &str, inode: u64) -> Option<u32> {
    holder_of(line, inode, 123, 127)
}

/// The process of such a line, if it has a reader's lock on a byte from `from` to `to`.
#[cfg(target_os = "linux")]
fn holder_of(line: &str, inode: u64, from: u64, to: u64) -> Option<u32> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, "POSIX" | "OFDLCK", _, "READ", process, file, first, last] = fields[..] else { return None };
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let of_index = file.rsplit(':').next()?.parse() == Ok(inode);
    (of_index && first <= to && last >= from).then(|| process.parse().ok()).flatten()
}

#[cfg(target_os = "linux")]
fn describe(process: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{process}/comm")) {
        Ok(name) => format!("{process} ({})", name.trim()),
        Err(_) => process.to_string(),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_of_a_snapshot_in_the_index_counts() {
        let line =
            |kind: &str, inode: u64, byte: u64| format!("1: POSIX  ADVISORY  {kind} 4711 fd:01:{inode} {byte} {byte}");
        assert_eq!(holder(&line("READ", 77, 124), 77), Some(4711));
        for other in [line("READ", 78, 124), line("WRITE", 77, 120), line("READ", 77, 128), String::new()] {
            assert_eq!(holder(&other, 77), None, "{other}");
        }
    }
}
