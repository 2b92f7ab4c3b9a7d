//! The JSON log: what opening, checking and repairing make of files of any content.
//!
//! The first byte is `s` (sealed) for lines that get the right checksum and the rest of their ending here, so that what lies behind the
//! checksum is reached; `r` is for files as they are. A [`MARK`](crate::MARK) in the rest is where one segment ends and the next begins.

mod disk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use backend_json_log::{JsonLogCheck, JsonLogConfig, JsonLogStorage, OnDamage};
use broker_core::storage::check::{Check as _, Checked, Finding, Inspector, Severity};
use broker_core::storage::contract::Model;
use broker_core::storage::{Mutation, Place, Recovery, RecoveryReport, Storage as _, StorageError};
use disk::Disk;

type FilesOf = BTreeMap<PathBuf, Vec<u8>>;

const DIR: &str = "/data";

/// The most segments of an input.
const MAX_SEGMENTS: usize = 4;

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    let files = segments(rest, *form == b's');

    // A broker that goes on in spite of damage.
    let disk = Disk::of(&files);
    let opened = open(&disk, OnDamage::Serve);
    let (before, report) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(disk.files(), files, "what is refused is not touched: {error}");
            return;
        }
    };
    let (again, second) = open(&disk, OnDamage::Serve).unwrap_or_else(|error| panic!("the second time: {error}"));
    before.0.assert_same(&again.0, "opened again");
    assert_eq!(second.torn_bytes, 0, "a torn tail is cut off once");
    kept(&files, &disk.files());

    // What checking says of the same files.
    let disk = Disk::of(&files);
    let (checked, findings) = check(&disk).unwrap_or_else(|error| panic!("it opens, and cannot be checked: {error}"));
    assert_eq!(disk.files(), files, "checking changes nothing");
    if report.damaged > 0 || report.torn_bytes > 0 {
        assert!(checked.damage > 0, "what a start reports is found: {report:?}");
    }
    if checked.damage == 0 {
        let strict = open(&Disk::of(&files), OnDamage::Stop);
        let (strict, _) = strict.unwrap_or_else(|error| panic!("nothing is damaged, and it is refused: {error}"));
        before.0.assert_same(&strict.0, "where damage is to stop it");
    }

    // And what repairing makes of them.
    let repaired = JsonLogCheck::open_with(config(OnDamage::Serve), Arc::new(disk.clone()))
        .and_then(|mut check| check.repair(&mut Findings::default()));
    let repaired = repaired.unwrap_or_else(|error| {
        let left = check(&disk).map(|(_, left)| left);
        panic!("it cannot be repaired: {error}\nof {findings:#?}\nthere is left {left:#?}")
    });
    let (left, still) = check(&disk).unwrap_or_else(|error| panic!("repaired, it cannot be checked: {error}"));
    assert_eq!(left.damage, 0, "repaired, it is not clean: {still:#?}\nof {findings:#?}");
    for file in &repaired.side_files {
        let side = String::from_utf8(disk.files()[file].clone()).expect("what was moved out is text");
        for line in side.lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("what was moved out is in lines of JSON");
        }
    }
    let after = open(&disk, OnDamage::Stop);
    let (after, report) = after.unwrap_or_else(|error| panic!("repaired, it is refused: {error}"));
    assert_eq!((report.damaged, report.torn_bytes), (0, 0), "repaired, it opens without a word");
    before.0.assert_same(&after.0, "repaired");
}

/// The files that an input stands for.
fn segments(data: &[u8], sealed: bool) -> FilesOf {
    let pieces = crate::pieces(data).into_iter().take(MAX_SEGMENTS);
    let name = |at: usize| PathBuf::from(format!("{DIR}/{:016}.jsonl", at + 1));
    pieces.enumerate().map(|(at, piece)| (name(at), if sealed { seal(piece) } else { piece.to_vec() })).collect()
}

/// Ends each line as the log does: with its checksum.
fn seal(piece: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(2 * piece.len());
    for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        sealed.extend_from_slice(line);
        sealed.extend_from_slice(format!(",\"crc\":\"{:08x}\"}}\n", crc32fast::hash(line)).as_bytes());
    }
    sealed
}

/// Checks that valid bytes are kept: a start may cut the last file's tail and remove files that are not needed, and changes no
/// other.
fn kept(before: &FilesOf, after: &FilesOf) {
    let last = before.keys().next_back();
    for (path, bytes) in before {
        let Some(now) = after.get(path) else { continue };
        let same = bytes.iter().zip(now).take_while(|(a, b)| a == b).count();
        if last != Some(path) {
            assert_eq!(same, bytes.len(), "{} was changed", path.display());
        }
    }
}

fn config(on_damage: OnDamage) -> JsonLogConfig {
    JsonLogConfig { on_damage, ..JsonLogConfig::new(DIR) }
}

/// The state that a broker recovers.
#[derive(Default)]
struct Found(Model);

impl Recovery for Found {
    fn replay(&mut self, mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        self.0.apply(&mutation);
        Ok(())
    }
}

fn open(disk: &Disk, on_damage: OnDamage) -> Result<(Found, RecoveryReport), StorageError> {
    let storage = JsonLogStorage::open_with(config(on_damage), Arc::new(disk.clone()))?;
    let mut found = Found::default();
    let report = storage.recover(&mut found)?;
    // Dropping it closes it.
    drop(storage);
    Ok((found, report))
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Inspector for Findings {
    fn finding(&mut self, finding: Finding) {
        self.0.push(finding);
    }
}

fn check(disk: &Disk) -> Result<(Checked, Vec<Finding>), StorageError> {
    let mut findings = Findings::default();
    let mut check = JsonLogCheck::open_with(config(OnDamage::Serve), Arc::new(disk.clone()))?;
    let checked = check.check(&mut findings)?;
    let damage = findings.0.iter().filter(|finding| finding.severity == Severity::Damage).count() as u64;
    assert_eq!((checked.damage, checked.notes), (damage, findings.0.len() as u64 - damage), "it counts what it says");
    Ok((checked, findings.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state that a broker recovers from an input of the corpus, and the findings of a check.
    fn found(input: &[u8]) -> (Model, Vec<Finding>) {
        let files = segments(&input[1..], input[0] == b's');
        let (found, _) = open(&Disk::of(&files), OnDamage::Serve).unwrap();
        (found.0, check(&Disk::of(&files)).unwrap().1)
    }

    #[test]
    fn inputs_by_hand_are_logs() {
        let (model, damaged) = found(include_bytes!("../../corpus/recovery/one-segment-sealed"));
        assert_eq!((damaged, model.topics["a"].events.len()), (vec![], 7));
        for input in [
            &include_bytes!("../../corpus/recovery/two-segments-sealed")[..],
            include_bytes!("../../corpus/recovery/two-segments"),
        ] {
            let (model, damaged) = found(input);
            assert_eq!(damaged, []);
            assert_eq!(model.topics["a"].events[&2].holders["x"], (1, Some(broker_core::event::Millis(5)), 7));
            assert_eq!(model.cursors["feed"], "7");
        }
        let (model, damaged) = found(include_bytes!("../../corpus/recovery/three-segments-sealed"));
        assert_eq!(damaged, []);
        assert!(model.topics["a"].subscriptions.is_empty());
        let (model, damaged) = found(include_bytes!("../../corpus/recovery/line-missing"));
        assert_eq!((damaged.len(), model.topics["a"].events.len()), (1, 6));
    }
}
