//! A check finds all damage and changes nothing. A repair keeps everything undamaged.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod database;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use backend_sled::{OnDamage, SledCheck, SledConfig, SledStorage};
use broker_core::storage::check::{Check, Finding, Inspector, Severity};
use broker_core::storage::contract::Model;
use broker_core::storage::contract::bench::{event, key, settle, subscribe, subscription, topic};
use broker_core::storage::{Batch, Mutation, Redelivery, Storage, StorageError, StorageErrorKind};
use database::damage;

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Inspector for Findings {
    fn finding(&mut self, finding: Finding) {
        self.0.push(finding);
    }
}

/// Every file below `dir` with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.insert(entry.clone(), Vec::new());
            found.extend(files(&entry));
        } else {
            found.insert(entry.clone(), fs::read(&entry).unwrap());
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            fs::create_dir_all(target).unwrap();
        } else {
            fs::write(target, bytes).unwrap();
        }
    }
}

/// Creates a database with this many events and every kind of record, long ones included.
fn make(dir: &Path, events: u64) {
    let storage = SledStorage::open(SledConfig::new(dir)).unwrap();
    storage.recover(&mut Model::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut batches = vec![vec![subscribe("a", "one", 0), subscribe("a", "two", 0), subscribe("b", "late", 7)]];
    for first in (1..=events).step_by(50) {
        let seqs = first..(first + 50).min(events + 1);
        let bytes = |seq: u64| if seq.is_multiple_of(17) { 9_000 } else { 100 };
        let mut batch: Vec<_> = seqs.map(|seq| Mutation::Publish(event("a", 0, seq, bytes(seq)))).collect();
        batch.push(settle("a", "one", [first]));
        let redelivery = Redelivery { key: key(0, first + 1), deliveries: 3, due_at: None, grace_ms: 0 };
        batch.push(Mutation::Redeliver {
            topic: topic("a"),
            subscription: subscription("two"),
            events: vec![redelivery],
        });
        batch.push(Mutation::Cursor { source: "feed".into(), value: format!("{first}{}", "long".repeat(3_000)) });
        batches.push(batch);
    }
    runtime.block_on(async {
        for mutations in batches {
            storage.submit(Batch { mutations }).durable.await.unwrap();
        }
        storage.close().await.unwrap();
    });
}

fn check(dir: &Path) -> Result<Vec<Finding>, StorageError> {
    let mut findings = Findings::default();
    let before = files(dir);
    let checked = SledCheck::open(SledConfig::new(dir))?.check(&mut findings)?;
    assert!(files(dir) == before, "checking changes nothing: {:?}", files(dir).keys());
    let damage = findings.0.iter().filter(|finding| finding.severity == Severity::Damage).count();
    assert_eq!(checked.damage, damage as u64);
    Ok(findings.0)
}

fn recover(dir: &Path, on_damage: OnDamage) -> Result<Model, StorageError> {
    let storage = SledStorage::open(SledConfig { on_damage, ..SledConfig::new(dir) })?;
    let mut found = Model::default();
    storage.recover(&mut found)?;
    Ok(found)
}

fn repair(dir: &Path) -> Result<(), StorageError> {
    SledCheck::open(SledConfig::new(dir)).unwrap().repair(&mut Findings::default()).map(drop)
}

/// Asserts that the directory is clean, and recovers it as a broker would.
#[track_caller]
fn clean(dir: &Path) -> Model {
    let left = check(dir).unwrap();
    assert!(left.is_empty(), "{left:?}");
    recover(dir, OnDamage::Stop).unwrap()
}

#[test]
fn a_clean_database_and_an_empty_directory_have_no_findings() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 120);
    let expected = recover(dir.path(), OnDamage::Stop).unwrap();
    assert_eq!(expected.topics["a"].events.len(), 120);
    expected.assert_same(&clean(dir.path()), "clean");
    let empty = tempfile::tempdir().unwrap();
    assert!(check(empty.path()).unwrap().is_empty());
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_record_is_found_and_moved_out() {
    let event_2: &[u8] = &[b'E', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let part_of_17: &[u8] = &[b'P', b'E', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17];
    for prefix in
        [event_2, part_of_17, b"X", b"T", b"t", b"S", b"s", b"Q", b"q", b"C", b"c", b"PC", b"N", b"n", b"G", b"H"]
    {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), 60);
        let damaged = damage(dir.path(), prefix);
        assert!(damaged > 0, "{prefix:?}");
        let findings = check(dir.path()).unwrap();
        let found = if prefix[0] == b'P' { 1 } else { damaged };
        assert_eq!(findings.len(), found, "{prefix:?}: {findings:?}");
        let before = tempfile::tempdir().unwrap();
        copy(dir.path(), before.path());
        let before = recover(before.path(), OnDamage::Serve).unwrap();
        repair(dir.path()).unwrap();
        before.assert_same(&clean(dir.path()), &format!("{prefix:?}"));
        let side = fs::read_to_string(dir.path().join("damaged/000001.ndjson")).unwrap();
        assert_eq!(side.lines().count(), found, "{side}");
        assert!(dir.path().join("damaged/000001.sled/db").exists());
    }
}

#[test]
fn records_lost_in_both_copies_are_replaced_as_at_a_start() {
    for letter in [b"q", b"n"] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), 60);
        damage(dir.path(), letter);
        damage(dir.path(), &letter.to_ascii_uppercase());
        repair(dir.path()).unwrap();
        let found = clean(dir.path());
        assert_eq!(found.topics["a"].events.len(), 60);
        assert_eq!(found.topics["b"].last_seq > 1 << 32, letter == b"q");
    }
    // Without its name, nothing of a topic can be used.
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 60);
    damage(dir.path(), b"T");
    damage(dir.path(), b"t");
    assert!(check(dir.path()).unwrap().len() > 60);
    repair(dir.path()).unwrap();
    assert!(clean(dir.path()).topics.is_empty());
}

/// On damage in its own file, sled goes back to an earlier state or panics.
#[test]
fn damage_in_the_file_of_sled_is_found_and_repaired_as_far_as_sled_can_read() {
    let origin = tempfile::tempdir().unwrap();
    make(origin.path(), 1200);
    let bytes = fs::read(origin.path().join("db/000001/db")).unwrap();
    let mut repaired = 0;
    for at in [0, 40, 20_000, 100_001, 250_000, 333_333] {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        fs::write(dir.path().join("db/000001/db"), &bytes).unwrap();
        let findings = check(dir.path()).unwrap();
        if findings.is_empty() {
            assert_eq!(recover(dir.path(), OnDamage::Stop).unwrap().topics["a"].events.len(), 1200, "byte {at}");
            continue;
        }
        match repair(dir.path()) {
            Ok(()) => {
                repaired += 1;
                clean(dir.path());
                assert_eq!(fs::read(dir.path().join("damaged/000001.sled/db")).unwrap(), bytes, "byte {at}");
            }
            Err(error) => {
                assert_eq!(error.kind(), StorageErrorKind::Unusable, "{error}");
                assert_eq!(fs::read(dir.path().join("db/000001/db")).unwrap(), bytes, "byte {at}: left as it was");
            }
        }
    }
    assert!(repaired > 0);
}

#[test]
fn the_remains_of_an_interrupted_repair_are_a_note_and_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 60);
    damage(dir.path(), b"H");
    fs::create_dir(dir.path().join("db/000002")).unwrap();
    fs::write(dir.path().join("db/000002/db"), "half a copy").unwrap();
    let findings = check(dir.path()).unwrap();
    assert_eq!(findings[0].severity, Severity::Note, "{findings:?}");
    repair(dir.path()).unwrap();
    assert_eq!(clean(dir.path()).topics["a"].events.len(), 60);
}

#[test]
fn a_directory_in_use_is_refused_and_the_error_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let _storage = SledStorage::open(SledConfig::new(dir.path())).unwrap();
    let error = SledCheck::open(SledConfig::new(dir.path())).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Locked);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}
