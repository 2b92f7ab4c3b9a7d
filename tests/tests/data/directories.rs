//! Every command uses only a directory that is empty or the storage's own; a refused one stays unchanged.

use std::fs;
use std::path::Path;

use super::{KINDS, Ran, done, files, run, sample};

const SERVE: &[&str] = &["serve", "--set", "transports.tcp.listen=127.0.0.1:0"];

/// Checks that every command that uses a data directory fails on `data` in `dir` and changes nothing.
#[track_caller]
fn all_refuse(dir: &Path, kind: &str, what: &str) {
    fs::write(dir.join("in"), sample(3)).unwrap();
    let data = dir.join("data");
    let modified = || fs::metadata(&data).unwrap().modified().unwrap();
    let before = (files(&data), modified());
    let clean = &[SERVE, &["--set", "storage.clean_on_start=true"]].concat();
    for args in [SERVE, clean, &["fsck"], &["fsck", "--repair"], &["export"], &["import", "in"]] {
        let Ran { status, out, err } = run(dir, kind, "data", args);
        assert_eq!((status, out.as_str()), (1, ""), "{kind} over {what}, {args:?}: {err}");
        assert!(err.contains("data"), "the error names the directory: {err}");
        assert!((files(&data), modified()) == before, "{kind} over {what}, {args:?}: changed something");
    }
}

#[test]
fn the_directory_of_another_storage_is_refused_by_every_command() {
    for own in KINDS {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), sample(5)).unwrap();
        done(dir.path(), own, "data", &["import", "in"]);
        for kind in KINDS.into_iter().filter(|kind| *kind != own) {
            all_refuse(dir.path(), kind, own);
            let named = [("json-log", "a JSON log"), ("sled", "a sled database"), ("sqlite", "an SQLite database")];
            let (_, name) = named.into_iter().find(|(kind, _)| *kind == own).unwrap();
            let Ran { err, .. } = run(dir.path(), kind, "data", &["fsck"]);
            assert!(err.contains(name), "{kind} over {own}: {err}");
        }
    }
}

#[test]
fn a_directory_with_other_files_is_refused_by_every_command() {
    type Fill = fn(&Path);
    let fills: [(&str, Fill); 8] = [
        ("a text", |data| fs::write(data.join("notes.txt"), "mine").unwrap()),
        ("a folder", |data| fs::create_dir(data.join("photos")).unwrap()),
        ("a diary with a segment's name", |data| {
            fs::write(data.join("0000000000000001.jsonl"), "dear diary\n").unwrap();
        }),
        ("an unrelated herald.db", |data| fs::write(data.join("herald.db"), "my own file, not a database").unwrap()),
        ("another SQLite database", |data| fs::write(data.join("other.db"), "SQLite format 3\0…").unwrap()),
        ("a plain sled database", |data| {
            fs::write(data.join("conf"), "segment_size: 524288\n").unwrap();
            fs::write(data.join("db"), [0; 4096]).unwrap();
        }),
        ("a LOCK of another program", |data| fs::write(data.join("LOCK"), "held by my editor").unwrap()),
        ("a folder db with files", |data| {
            fs::create_dir(data.join("db")).unwrap();
            fs::write(data.join("db/customers"), "mine").unwrap();
        }),
    ];
    for (what, fill) in fills {
        for kind in KINDS {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("data")).unwrap();
            fill(&dir.path().join("data"));
            all_refuse(dir.path(), kind, what);
        }
    }
}

#[cfg(unix)]
#[test]
fn a_lock_that_is_a_symbolic_link_is_not_followed() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let (precious, link) = (dir.path().join("precious"), dir.path().join("data/LOCK"));
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        all_refuse(dir.path(), kind, "a LOCK that is a link");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{kind}");
        fs::remove_file(&precious).unwrap();
        // The same holds if the directory already has a storage.
        fs::remove_file(&link).unwrap();
        fs::write(dir.path().join("in"), sample(3)).unwrap();
        done(dir.path(), kind, "data", &["import", "in"]);
        fs::remove_file(&link).unwrap();
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        all_refuse(dir.path(), kind, "its own with a LOCK that is a link");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{kind}");
        let Ran { err, .. } = run(dir.path(), kind, "data", &["fsck"]);
        assert!(err.contains("symbolic link"), "{err}");
    }
}

#[test]
fn lost_and_found_and_dot_files_count_as_empty_and_an_empty_directory_is_no_backup() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("lost+found")).unwrap();
        fs::create_dir(data.join(".snapshots")).unwrap();
        fs::write(data.join(".keep"), "").unwrap();
        let before = files(&data);
        for args in [&["fsck"][..], &["fsck", "--repair"], &["export"]] {
            let Ran { status, out, err } = run(dir.path(), kind, "data", args);
            assert_eq!((status, out.as_str()), (1, ""), "{args:?} of {kind}: {err}");
            assert!(err.contains(&format!("there is no {kind} storage in data")), "{err}");
            assert!(files(&data) == before, "{args:?} of {kind} changed something");
        }
        fs::write(dir.path().join("in"), sample(3)).unwrap();
        done(dir.path(), kind, "data", &["import", "in"]);
        assert_eq!(done(dir.path(), kind, "data", &["export"]), sample(3), "{kind}");
        // Other files beside an existing storage are left alone.
        fs::write(data.join("notes.txt"), "mine").unwrap();
        assert_eq!(done(dir.path(), kind, "data", &["export"]), sample(3), "{kind}");
        done(dir.path(), kind, "data", &["fsck"]);
    }
}
