//! A check finds all damage and changes nothing. A repair keeps everything undamaged, wherever it is interrupted.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backend_json_log::{JsonLogCheck, JsonLogConfig, JsonLogStorage, OnDamage};
use broker_core::storage::check::{Check, Checked, Finding, Inspector, Repaired, Severity};
use broker_core::storage::contract::Model;
use broker_core::storage::contract::bench::{cursor, event, key, settle, subscribe, subscription, topic};
use broker_core::storage::*;
use common::sim::{Plan, SimDisk, Survives};
use common::{block_on, small_segments};

type FilesOf = BTreeMap<PathBuf, Vec<u8>>;

const DIR: &str = "/data";

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Inspector for Findings {
    fn finding(&mut self, finding: Finding) {
        self.0.push(finding);
    }
}

fn config() -> JsonLogConfig {
    small_segments(DIR)
}

/// A log of several segments with every kind of record.
fn log() -> FilesOf {
    let disk = SimDisk::new(Plan::Nothing);
    let storage = JsonLogStorage::open_with(config(), Arc::new(disk.clone())).unwrap();
    storage.recover(&mut Model::default()).unwrap();
    let commit = |mutations| block_on(storage.submit(Batch { mutations }).durable).unwrap();
    commit(vec![subscribe("a", "one", 0), subscribe("a", "two", 0), subscribe("b", "one", 3)]);
    for round in 0..5 {
        let first = round * 6 + 1;
        commit((first..first + 6).map(|seq| Mutation::Publish(event("a", 0, seq, 150))).collect());
        commit(vec![settle("a", "one", [first]), settle("a", "two", [first + 1])]);
        let redelivery = Redelivery { key: key(0, first + 2), deliveries: 2, due_at: None, grace_ms: 0 };
        commit(vec![Mutation::Redeliver {
            topic: topic("a"),
            subscription: subscription("two"),
            events: vec![redelivery],
        }]);
        commit(vec![Mutation::Publish(event("b", 0, 4 + round, 20)), cursor("feed", round)]);
    }
    block_on(storage.close()).unwrap();
    drop(storage);
    let files = disk.files();
    assert!(files.len() >= 3, "several segments: {}", files.len());
    files
}

fn check(disk: &SimDisk) -> Result<(Checked, Vec<Finding>), StorageError> {
    let mut findings = Findings::default();
    let checked = JsonLogCheck::open_with(config(), Arc::new(disk.clone()))?.check(&mut findings)?;
    let damage = findings.0.iter().filter(|finding| finding.severity == Severity::Damage).count();
    assert_eq!((checked.damage, checked.notes), (damage as u64, (findings.0.len() - damage) as u64));
    Ok((checked, findings.0))
}

fn repair(disk: &SimDisk) -> Result<Repaired, StorageError> {
    JsonLogCheck::open_with(config(), Arc::new(disk.clone()))?.repair(&mut Findings::default())
}

/// The state that a broker finds.
fn state(disk: &SimDisk, on_damage: OnDamage) -> Result<(Model, RecoveryReport), StorageError> {
    let storage = JsonLogStorage::open_with(JsonLogConfig { on_damage, ..config() }, Arc::new(disk.clone()))?;
    let mut found = Model::default();
    let report = storage.recover(&mut found)?;
    block_on(storage.close())?;
    Ok((found, report))
}

/// Checks and repairs a modified log, and compares the result with what a broker would have recovered from it.
#[track_caller]
fn goes_well(files: &FilesOf, what: &str) -> Vec<Finding> {
    let disk = SimDisk::of(files, Plan::Nothing);
    let (checked, findings) = check(&disk).unwrap();
    assert_eq!(disk.files(), *files, "{what}: checking changes nothing");
    let (before, report) = state(&SimDisk::of(files, Plan::Nothing), OnDamage::Serve).unwrap();
    if report.damaged > 0 || report.torn_bytes > 0 {
        assert!(checked.damage > 0, "{what}: the check finds what a start reports: {report:?}");
    }
    let repaired = repair(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (after, findings_left) = check(&disk).unwrap();
    assert_eq!(after.damage, 0, "{what}: {findings_left:?}");
    for file in &repaired.side_files {
        for line in String::from_utf8(disk.files()[file].clone()).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
    let (found, report) = state(&disk, OnDamage::Stop).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!((report.damaged, report.torn_bytes), (0, 0), "{what}");
    before.assert_same(&found, what);
    findings
}

#[test]
fn a_clean_log_has_no_findings_and_a_repair_keeps_its_meaning() {
    let files = log();
    assert!(goes_well(&files, "clean").is_empty());
}

#[test]
fn repairing_a_flipped_bit_loses_no_more_than_the_broker_would() {
    let files = log();
    for (path, bytes) in &files {
        // A step that shares no factor with the lengths of lines.
        for at in (0..bytes.len()).step_by(37) {
            let mut files = files.clone();
            files.get_mut(path).unwrap()[at] ^= 0x10;
            let findings = goes_well(&files, &format!("{} at {at}", path.display()));
            assert!(!findings.is_empty(), "{} at {at}", path.display());
        }
    }
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

#[test]
fn removed_duplicated_and_swapped_lines_are_found_and_repaired() {
    let files = log();
    for (path, bytes) in &files {
        let good = lines(bytes);
        for at in 0..good.len() {
            let mut changes =
                vec![("taken out", good.clone()), ("doubled", good.clone()), ("taken out to the end", good.clone())];
            changes[0].1.remove(at);
            changes[1].1.insert(at, good[at].clone());
            changes[2].1.truncate(at);
            if at + 1 < good.len() {
                let mut swapped = good.clone();
                swapped.swap(at, at + 1);
                changes.push(("swapped", swapped));
            }
            for (what, lines) in changes {
                let mut files = files.clone();
                files.insert(path.clone(), lines.concat());
                goes_well(&files, &format!("{} line {at} {what}", path.display()));
            }
        }
    }
}

/// Appends the checksum and the line ending to the body of a line.
fn sealed(line: &str) -> Vec<u8> {
    format!("{line},\"crc\":\"{:08x}\"}}\n", crc32fast::hash(line.as_bytes())).into_bytes()
}

#[test]
fn catalogue_lines_after_records_are_damage_and_have_no_effect() {
    let files = log();
    let name = sealed(r#"{"left":0,"subscribe":{"topic":"z","subscription":"x","since":0}"#);
    for (path, bytes) in &files {
        let good = lines(bytes);
        let records = good.iter().position(|line| line.starts_with(b"{\"batch\":")).unwrap() + 1;
        for at in records..=good.len() {
            let mut lines = good.clone();
            lines.insert(at, name.clone());
            let mut files = files.clone();
            files.insert(path.clone(), lines.concat());
            let what = format!("{} line {at}", path.display());
            let findings = goes_well(&files, &what);
            assert!(findings.iter().any(|finding| finding.severity == Severity::Damage), "{what}: {findings:?}");
            let (found, _) = state(&SimDisk::of(&files, Plan::Nothing), OnDamage::Serve).unwrap();
            assert!(!found.topics.contains_key("z"), "{what}");
        }
    }
}

/// A log whose segments consist of these lines, with checksums added.
fn crafted(segments: &[&[&str]]) -> FilesOf {
    let path = |at: usize| Path::new(DIR).join(format!("{:016}.jsonl", at + 1));
    let bytes = |lines: &[&str]| lines.iter().flat_map(|line| sealed(line)).collect();
    segments.iter().enumerate().map(|(at, lines)| (path(at), bytes(lines))).collect()
}

#[test]
fn a_segment_that_counts_from_an_earlier_batch_is_repaired_with_its_successor() {
    let files = crafted(&[
        &[
            r#"{"herald":"json-log","version":1,"segment":1,"created":1,"oldest":1,"next_batch":1,"left":0"#,
            r#"{"batch":1,"left":0,"subscribe":{"topic":"a","subscription":"x","since":0}"#,
            r#"{"batch":2,"left":0,"cursor":{"source":"feed","value":"1"}"#,
            r#"{"batch":3,"left":0,"cursor":{"source":"feed","value":"2"}"#,
            r#"{"batch":4,"left":0,"cursor":{"source":"feed","value":"3"}"#,
        ],
        &[r#"{"herald":"json-log","version":1,"segment":2,"created":1,"oldest":1,"next_batch":2,"left":0"#],
        &[
            r#"{"herald":"json-log","version":1,"segment":3,"created":1,"oldest":1,"next_batch":4,"left":0"#,
            r#"{"batch":4,"left":0,"cursor":{"source":"feed","value":"4"}"#,
        ],
    ]);
    let findings = goes_well(&files, "an earlier segment");
    assert!(findings.iter().any(|finding| finding.what.contains("the last batches")), "{findings:?}");
}

#[test]
fn missing_segments_torn_tails_and_files_of_zeros_are_repaired() {
    let files = log();
    let paths: Vec<_> = files.keys().cloned().collect();
    for path in &paths {
        let mut without = files.clone();
        without.remove(path);
        let findings = goes_well(&without, &format!("without {}", path.display()));
        if *path != paths[paths.len() - 1] {
            assert!(findings.iter().any(|finding| finding.what.contains("missing")), "{findings:?}");
        }
        for (name, fill) in [
            ("zeros", &b"\0\0\0\0\0\0\0\0"[..]),
            ("half a line", b"{\"batch\":99,\"left\":0,"),
            ("stuff\nmore\n", b"x\ny\n"),
        ] {
            let mut longer = files.clone();
            longer.get_mut(path).unwrap().extend_from_slice(fill);
            goes_well(&longer, &format!("{} with {name}", path.display()));
        }
        let mut zeros = files.clone();
        zeros.get_mut(path).unwrap().fill(0);
        goes_well(&zeros, &format!("{} of zeros", path.display()));
    }
}

#[test]
fn a_stray_file_is_a_note_and_stays() {
    let mut files = log();
    files.insert(Path::new(DIR).join("notes.jsonl"), b"mine".to_vec());
    files.insert(Path::new(DIR).join("0000000000000001.jsonl.draft"), b"half".to_vec());
    let findings = goes_well(&files, "strays");
    assert_eq!(findings.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Note; 2]);
    let disk = SimDisk::of(&files, Plan::Nothing);
    repair(&disk).unwrap();
    let left = disk.files();
    assert!(left.contains_key(&Path::new(DIR).join("notes.jsonl")));
    assert!(!left.contains_key(&Path::new(DIR).join("0000000000000001.jsonl.draft")));
}

#[test]
fn moved_out_lines_are_in_the_side_file() {
    let mut files = log();
    let path = files.keys().next().unwrap().clone();
    let good = lines(&files[&path]);
    let at = good.iter().position(|line| memchr::memmem::find(line, b"\"seq\":2,").is_some()).unwrap();
    let mut bad = good;
    bad[at][30] ^= 1;
    files.insert(path, bad.concat());
    let disk = SimDisk::of(&files, Plan::Nothing);
    let (_, findings) = check(&disk).unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].loses.contains("this event"), "{findings:?}");
    let repaired = repair(&disk).unwrap();
    assert_eq!(repaired.side_files, [Path::new(DIR).join("damaged/000001.ndjson")]);
    let side = disk.files()[&repaired.side_files[0]].clone();
    let record: serde_json::Value = serde_json::from_slice(&side).unwrap();
    assert_eq!(record["text"].as_str().unwrap().as_bytes(), bad[at]);
    let first = lines(&disk.files()[&Path::new(DIR).join("0000000000000001.jsonl")]).concat();
    let note = "\"repaired\":{\"lines\":1,\"moved_to\":\"damaged/000001.ndjson\"}";
    assert!(String::from_utf8(first).unwrap().contains(note));
}

/// Power fails at each operation of a repair. Whichever unsynced data survives, nothing is lost, and another repair completes.
#[test]
fn a_repair_interrupted_anywhere_loses_nothing() {
    let mut files = log();
    let paths: Vec<_> = files.keys().cloned().collect();
    // A bad line in each segment, a bad header, a torn tail, and a missing segment.
    for path in &paths {
        let middle = files[path].len() / 2;
        files.get_mut(path).unwrap()[middle] ^= 0x10;
    }
    files.get_mut(&paths[2]).unwrap()[5] ^= 1;
    files.get_mut(&paths[paths.len() - 1]).unwrap().extend_from_slice(b"{\"batch\":99");
    files.remove(&paths[1]);
    let (before, _) = state(&SimDisk::of(&files, Plan::Nothing), OnDamage::Serve).unwrap();
    let mut interrupted = 0;
    for at in 0.. {
        let disk = SimDisk::of(&files, Plan::CutAt(at));
        let result = repair(&disk);
        if !disk.happened() {
            result.unwrap();
            break;
        }
        interrupted += 1;
        for survives in [Survives::Nothing, Survives::Everything, Survives::Some(at), Survives::Some(at + 1000)] {
            let what = format!("operation {at}, {survives:?}");
            let rebooted = disk.reboot(survives, Plan::Nothing);
            let (found, _) = state(&SimDisk::of(&rebooted.files(), Plan::Nothing), OnDamage::Serve).unwrap();
            before.assert_same(&found, &what);
            repair(&rebooted).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(check(&rebooted).unwrap().0.damage, 0, "{what}");
            let (found, _) = state(&rebooted, OnDamage::Stop).unwrap();
            before.assert_same(&found, &what);
        }
    }
    assert!(interrupted > 15, "{interrupted}");
}

#[test]
fn a_directory_in_use_is_refused_and_the_error_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let config = JsonLogConfig::new(dir.path());
    let storage = JsonLogStorage::open(config.clone()).unwrap();
    let error = JsonLogCheck::open(config.clone()).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Locked);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(storage);
    JsonLogCheck::open(config).unwrap();
}
