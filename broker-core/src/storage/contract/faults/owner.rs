//! Claims about directories and files of another user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::super::ContractBackend;
use super::super::bench::files;
use super::preload::{Faults, other_user};
use super::workload::{batches, commit_all, open, runtime, scratch};
use crate::error_chain;
use crate::storage::{Storage, StorageErrorKind};

/// The directory that the process of another user has to open.
const DIRECTORY: &str = "FAULTS_OF_HERALD_DIRECTORY";

/// The ways in which a storage's directories and files are made inaccessible.
const MODES: [(u32, u32); 3] = [(0o555, 0o444), (0o555, 0o644), (0o000, 0o000)];

/// A directory of another user, or one that cannot be written, listed or created, is refused with an error that says what it is
/// and what to do. Nothing in it changes.
pub fn what_belongs_to_another_user_is_refused_untouched<B: ContractBackend>(_faults: &Faults) {
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        return is_refused::<B>(Path::new(&dir));
    }
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let top = scratch();
    fs::set_permissions(top.path(), Permissions::from_mode(0o755)).expect("it is ours");
    // Another user may have no access to the directory of this program.
    let program = top.path().join("program");
    if is_root {
        fs::copy(std::env::current_exe().expect("this program has a path"), &program).expect("it can be copied");
    }
    let attempt = |dir: &Path, what: &str| {
        if !is_root {
            // Modes stop everyone but root, who runs the test as another user below.
            return is_refused::<B>(dir);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        command.args(["what_belongs_to_another_user_is_refused_untouched", "--exact", "--nocapture"]);
        other_user(command.env(DIRECTORY, dir));
        let output = command.output().expect("as root this test needs setpriv, of util-linux");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{what}: {text}");
    };
    for (number, (dir_mode, file_mode)) in MODES.into_iter().enumerate() {
        let data = top.path().join(format!("data{number}"));
        let (storage, found, _) = open::<B>(&data).expect("a new one opens");
        let seen = commit_all(&storage, &found, batches());
        runtime().block_on(storage.close()).expect("the last sync succeeds");
        let before = files(&data);
        set_modes(&data, dir_mode, file_mode);
        attempt(&data, &format!("directories {dir_mode:o}, files {file_mode:o}"));
        set_modes_back(&data);
        assert!(files(&data) == before, "nothing in it changes");
        let (_storage, found, _) = open::<B>(&data).expect("its owner opens it");
        seen.history[seen.durable].assert_same(&found, "its owner opens it");
    }
    let empty = top.path().join("empty");
    fs::create_dir(&empty).expect("it can be made");
    fs::set_permissions(&empty, Permissions::from_mode(0o555)).expect("it is ours");
    attempt(&empty, "an empty directory");
    attempt(&empty.join("missing"), "a directory that cannot be made");
    assert_eq!(fs::read_dir(&empty).expect("it can be listed").count(), 0);
}

fn is_refused<B: ContractBackend>(dir: &Path) {
    let error = open::<B>(dir).err().expect("it is refused");
    let text = error_chain(&error);
    assert_eq!(error.kind(), StorageErrorKind::Unusable, "{text}");
    assert!(text.contains(&dir.display().to_string()), "it says what: {text}");
    assert!(text.contains("permission denied") && text.contains("must own"), "it says why, and what to do: {text}");
}

fn set_modes(dir: &Path, dir_mode: u32, file_mode: u32) {
    for entry in fs::read_dir(dir).expect("it can be listed").flatten() {
        if entry.path().is_dir() {
            set_modes(&entry.path(), dir_mode, file_mode);
        } else {
            fs::set_permissions(entry.path(), Permissions::from_mode(file_mode)).expect("it is ours");
        }
    }
    fs::set_permissions(dir, Permissions::from_mode(dir_mode)).expect("it is ours");
}

fn set_modes_back(dir: &Path) {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("it is ours");
    for entry in fs::read_dir(dir).expect("it can be listed").flatten() {
        if entry.path().is_dir() {
            set_modes_back(&entry.path());
        } else {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o644)).expect("it is ours");
        }
    }
}
