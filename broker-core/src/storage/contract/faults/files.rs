//! Claims about missing files, and files of another origin.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::super::bench::files;
use super::super::{ContractBackend, Model};
use super::preload::Faults;
use super::workload::{batches, check, commit_all, open, runtime, scratch};
use crate::error_chain;
use crate::storage::{Storage, StorageErrorKind};

/// Fills a storage and stops it, cleanly or not.
fn fill<B: ContractBackend>(data: &Path, closed: bool) -> super::workload::Seen {
    let (storage, found, _) = open::<B>(data).expect("a new one opens");
    let seen = commit_all(&storage, &found, batches());
    assert!(seen.error.is_none(), "{:?}", seen.error);
    if closed {
        runtime().block_on(storage.close()).expect("the last sync succeeds");
    }
    seen
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let path = to.join(path.strip_prefix(from).expect("it is below"));
        fs::create_dir_all(path.parent().expect("it has a directory")).expect("it can be made");
        fs::write(path, bytes).expect("it can be written");
    }
}

/// One file is missing, after a stop of either kind. Then either everything is still handed back, or the loss is counted, or the
/// storage refuses to start, and no other file is removed. Two cases cannot be detected: the missing only file of a storage
/// looks like an unused directory, and SQLite's missing write-ahead log like one that has been checkpointed.
pub fn a_missing_file_is_never_silent<B: ContractBackend>(_faults: &Faults) {
    for closed in [true, false] {
        let dir = scratch();
        let data = dir.path().join("data");
        let (storage, found, _) = open::<B>(&data).expect("a new one opens");
        let seen = commit_all(&storage, &found, batches());
        let kept = if closed {
            runtime().block_on(storage.close()).expect("the last sync succeeds");
            None
        } else {
            // Copied while it is open, which is the state after a kill.
            Some(storage)
        };
        let whole = dir.path().join("whole");
        copy(&data, &whole);
        drop(kept);
        let names: Vec<PathBuf> = files(&whole).into_iter().map(|(path, _)| path).collect();
        let with_data = names.iter().filter(|name| !is_note(name)).count();
        for missing in &names {
            let there = scratch();
            copy(&whole, there.path());
            let name = missing.strip_prefix(&whole).expect("it is below");
            fs::remove_file(there.path().join(name)).expect("it is there");
            let left = files(there.path());
            let what = format!("without {} (closed: {closed})", name.display());
            match catch_unwind(AssertUnwindSafe(|| open::<B>(there.path()))) {
                Err(_panic) => panic!("{what}: it panicked"),
                Ok(Err(error)) => {
                    assert_eq!(error.kind(), StorageErrorKind::Unusable, "{what}: {}", error_chain(&error));
                    for (path, bytes) in left.into_iter().filter(|(path, _)| !is_note(path)) {
                        assert!(fs::read(&path).ok() == Some(bytes), "{what}: {} was changed", path.display());
                    }
                }
                Ok(Ok((_storage, found, report))) => {
                    let all = seen.history[seen.durable].needed() == found.needed();
                    let one_file = with_data == 1 && !is_note(missing) && found.needed() == Model::default();
                    let log = missing.to_string_lossy().ends_with("-wal");
                    let older = log && seen.history.iter().any(|state| state.needed() == found.needed());
                    assert!(
                        all || one_file || older || report.damaged > 0,
                        "{what}: {report:?}: {:#?}",
                        found.needed()
                    );
                }
            }
        }
    }
}

/// Whether a file holds no published event.
fn is_note(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == "LOCK" || name == "mark" || name.ends_with("-shm")
}

/// Other files in the directory stay unchanged, and do not count as damage.
pub fn stray_files_and_directories_are_left_alone<B: ContractBackend>(_faults: &Faults) {
    for closed in [true, false] {
        let dir = scratch();
        let data = dir.path().join("data");
        let seen = fill::<B>(&data, closed);
        let strays = ["notes.txt", "lost+found/entry", ".hidden", "backup/0000000000000001.jsonl", "db/notes", "core"];
        for stray in strays {
            let path = data.join(stray);
            fs::create_dir_all(path.parent().expect("it has a directory")).expect("it can be made");
            fs::write(path, stray).expect("it can be written");
        }
        check::<B>(&data, &seen, "beside strays");
        for stray in strays {
            assert_eq!(fs::read_to_string(data.join(stray)).ok().as_deref(), Some(stray), "it is as it was");
        }
    }
}
