//! Only one broker at a time uses a directory, and an unusable directory is a clear error.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::fs;

use backend_json_log::{JsonLogConfig, JsonLogStorage};
use broker_core::storage::*;
use common::engine::Replayed;

#[test]
fn a_second_broker_is_refused_and_the_error_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let first = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    let error = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Locked);
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    drop(first);
    JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
}

#[test]
fn a_lock_file_of_a_dead_process_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("LOCK"), r#"{"pid":1,"host":"elsewhere","started":0}"#).unwrap();
    let _first = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    let note = fs::read_to_string(dir.path().join("LOCK")).unwrap();
    assert!(note.contains(&format!("\"pid\":{}", std::process::id())), "{note}");
}

#[test]
fn closing_releases_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    first.recover(&mut Replayed::default()).unwrap();
    common::block_on(first.close()).unwrap();
    let second = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap();
    second.recover(&mut Replayed::default()).unwrap();
}

#[test]
fn missing_parents_are_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c");
    let storage = JsonLogStorage::open(JsonLogConfig::new(&path)).unwrap();
    storage.recover(&mut Replayed::default()).unwrap();
    assert!(path.join("0000000000000001.jsonl").exists());
}

#[test]
fn a_path_that_is_a_file_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, "x").unwrap();
    let error = JsonLogStorage::open(JsonLogConfig::new(&path)).unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "x");
}

#[cfg(unix)]
#[test]
fn a_directory_without_permission_is_a_clear_error() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(dir.path().join("probe"), "").is_ok() {
        // Permissions do not apply to the superuser.
        return;
    }
    let error = JsonLogStorage::open(JsonLogConfig::new(dir.path())).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unusable);
    assert!(error.to_string().contains("permission denied"), "{error}");
}
