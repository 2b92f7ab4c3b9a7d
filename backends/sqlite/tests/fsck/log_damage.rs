//! Damage in SQLite's log: what is behind it stays, and a torn end is no damage.

use std::fs;
use std::ops::Range;
use std::path::Path;

use backend_sqlite::{Durability, OnDamage, SqliteCheck, SqliteConfig, SqliteStorage};
use broker_core::storage::check::{Check, Severity};
use broker_core::storage::contract::Model;
use broker_core::storage::{Storage, StorageErrorKind};

use super::{Findings, check, copy, files, make, recover, repaired};

const EVENTS: u64 = 600;

/// The bytes of the log's header, and of a frame: its header and a page.
const HEADER: usize = 32;
const FRAME: usize = 24 + 8192;

/// The bytes of a disk's sector.
const SECTOR: usize = 512;

/// A database whose log holds everything, as after a kill.
struct Killed {
    dir: tempfile::TempDir,
    log: Vec<u8>,
    expected: Model,
}

impl Killed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), EVENTS, true);
        let log = fs::read(dir.path().join("herald.db-wal")).unwrap();
        let started = tempfile::tempdir().unwrap();
        copy(dir.path(), started.path());
        let expected = recover(started.path(), OnDamage::Stop).unwrap();
        assert_eq!(expected.topics["a"].events.len() as u64, EVENTS);
        Self { dir, log, expected }
    }

    /// The same database with a changed log.
    fn with(&self, change: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
        let changed = tempfile::tempdir().unwrap();
        copy(self.dir.path(), changed.path());
        let mut log = self.log.clone();
        change(&mut log);
        fs::write(changed.path().join("herald.db-wal"), log).unwrap();
        changed
    }

    /// The frames, from 0.
    fn frames(&self) -> usize {
        (self.log.len() - HEADER) / FRAME
    }

    /// The bytes of a frame.
    fn frame(frame: usize) -> Range<usize> {
        HEADER + frame * FRAME..HEADER + (frame + 1) * FRAME
    }

    fn is_commit(&self, frame: usize) -> bool {
        self.log[Self::frame(frame)][4..8] != [0; 4]
    }
}

fn events(found: &Model) -> u64 {
    found.topics.get("a").map_or(0, |topic| topic.events.len() as u64)
}

fn start(dir: &Path, durability: Durability) -> Model {
    let storage = SqliteStorage::open(SqliteConfig { durability, ..SqliteConfig::new(dir) }).unwrap();
    let mut found = Model::default();
    storage.recover(&mut found).unwrap();
    found
}

#[test]
fn a_flipped_bit_anywhere_in_the_log_loses_nothing_behind_it() {
    let killed = Killed::new();
    let in_header = 0..HEADER;
    // A prime step: every part of a frame is hit in some frame, and every bit of a byte.
    let elsewhere = (HEADER..killed.log.len()).step_by(20_011);
    for (n, at) in in_header.chain(elsewhere).enumerate() {
        let dir = killed.with(|log| log[at] ^= 1 << (n % 8));
        let found = check(dir.path()).unwrap();
        assert!(found.iter().any(|finding| finding.severity == Severity::Damage), "byte {at}: {found:?}");
        let first = recover(dir.path(), OnDamage::Serve);
        let first = first.unwrap_or_else(|error| panic!("byte {at}, bit {}: {error}: {found:?}", n % 8));
        assert!(events(&first) >= EVENTS - 1, "byte {at}: {} events", events(&first));
        if events(&first) == EVENTS {
            killed.expected.assert_same(&first, "as if nothing had been flipped");
            assert!(check(dir.path()).unwrap().is_empty(), "byte {at}: clean after the start");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_transaction_is_told_from_a_torn_end() {
    let killed = Killed::new();
    let last = Killed::frame(killed.frames() - 1);
    for at in [last.start, last.start + 5, last.start + 9, last.start + 17, last.start + 24, last.start + 4_000] {
        let dir = killed.with(|log| log[at] ^= 2);
        assert!(!check(dir.path()).unwrap().is_empty(), "byte {at}");
        killed.expected.assert_same(&recover(dir.path(), OnDamage::Serve).unwrap(), "the last transaction is there");
    }
}

#[test]
fn a_torn_end_is_no_damage_wherever_it_is_torn() {
    let killed = Killed::new();
    let some = (0..killed.frames()).step_by(9).chain(killed.frames().saturating_sub(3)..killed.frames());
    let mut ends: Vec<usize> = some.map(|frame| Killed::frame(frame).start).collect();
    ends.extend([1, HEADER - 1, killed.log.len() - 1]);
    let mut before = 0;
    for end in ends.iter().flat_map(|end| [end.saturating_sub(1), *end, end + 1, end + SECTOR]) {
        let dir = killed.with(|log| log.truncate(end));
        assert_eq!(check(dir.path()).unwrap(), [], "torn at {end}");
        let found = recover(dir.path(), OnDamage::Stop).unwrap();
        before = before.max(events(&found));
    }
    assert!(before > EVENTS / 2);
}

#[test]
fn a_sector_that_was_not_written_in_the_last_transaction_is_a_torn_end() {
    let killed = Killed::new();
    let last = killed.frames() - 1;
    let begin = (0..last).rev().find(|frame| killed.is_commit(*frame)).unwrap() + 1;
    for frame in begin..=last {
        let sector = Killed::frame(frame).start + 24 + SECTOR;
        // More than one bit, at any content.
        let dir = killed.with(|log| log[sector..sector + SECTOR].iter_mut().for_each(|byte| *byte ^= 0x5a));
        let found = check(dir.path()).unwrap();
        assert!(found.iter().all(|finding| finding.severity == Severity::Note), "{found:?}");
        assert_eq!(events(&recover(dir.path(), OnDamage::Stop).unwrap()), EVENTS - 50, "frame {frame}");
    }
}

#[test]
fn a_lost_sector_costs_only_what_is_in_it() {
    let killed = Killed::new();
    let commits: Vec<usize> = (0..killed.frames()).filter(|frame| killed.is_commit(*frame)).collect();
    let third = commits[2];
    for frame in [0, 1, third, third + 1, killed.frames() / 2] {
        for sector in [Killed::frame(frame).start, Killed::frame(frame).start + 24 + 4 * SECTOR] {
            let dir = killed.with(|log| log[sector..sector + SECTOR].iter_mut().for_each(|byte| *byte ^= 0x5a));
            let found = check(dir.path()).unwrap();
            assert!(found.iter().any(|finding| finding.severity == Severity::Damage), "{found:?}");
            let left = repaired(dir.path());
            // Later frames of the same page replace most of them.
            assert!(events(&left) >= EVENTS - 100, "frame {frame}: {} events", events(&left));
        }
    }
}

#[test]
fn without_a_sync_at_each_commit_a_gap_is_no_proof_of_damage() {
    let killed = Killed::new();
    let middle = Killed::frame(killed.frames() / 2);
    for durability in [Durability::Interval, Durability::Never] {
        let dir = killed.with(|log| log[middle.start..middle.start + 4096].fill(0));
        let config = SqliteConfig { durability, ..SqliteConfig::new(dir.path()) };
        let mut found = Findings::default();
        let checked = SqliteCheck::open(config).unwrap().check(&mut found).unwrap();
        assert_eq!((checked.damage, checked.notes), (0, 1), "{:?}", found.0);
        let left = events(&start(dir.path(), durability));
        assert!(left > 0 && left < EVENTS, "{left}");
    }
}

#[test]
fn damage_in_the_log_stops_the_start_if_it_is_told_to_and_changes_nothing() {
    let killed = Killed::new();
    let dir = killed.with(|log| log[HEADER + FRAME + 3_000] ^= 4);
    let mut before = files(dir.path());
    let error = recover(dir.path(), OnDamage::Stop).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unusable);
    assert!(error.to_string().contains("frame 2 of SQLite's log"), "{error}");
    let mut after = files(dir.path());
    for file in ["LOCK", "reserve"].map(|name| dir.path().join(name)) {
        before.remove(&file);
        after.remove(&file);
    }
    assert!(before == after, "{:?}", after.keys());
}

#[test]
fn a_repair_of_the_log_keeps_it_as_it_was() {
    let killed = Killed::new();
    let dir = killed.with(|log| log[HEADER + FRAME + 3_000] ^= 4);
    let damaged = fs::read(dir.path().join("herald.db-wal")).unwrap();
    let mut check = SqliteCheck::open(SqliteConfig::new(dir.path())).unwrap();
    let repaired = check.repair(&mut Findings::default()).unwrap();
    drop(check);
    let [kept] = &repaired.side_files[..] else { panic!("{repaired:?}") };
    assert!(fs::read(kept).unwrap() == damaged);
    killed.expected.assert_same(&recover(dir.path(), OnDamage::Stop).unwrap(), "nothing was lost");
}

#[test]
fn frames_of_an_earlier_round_of_the_log_do_not_count() {
    let killed = Killed::new();
    // A log that began anew with other salts and one whole transaction, over the frames of the round before.
    let end = (0..killed.frames()).find(|frame| killed.is_commit(*frame)).unwrap();
    let dir = killed.with(|log| {
        for frame in end + 1..killed.frames() {
            log[Killed::frame(frame).start + 8] ^= 0xff;
        }
        // The chain goes on in the file; what is of another round is told by its salts.
        log[Killed::frame(end + 1).start + 16] ^= 0xff;
    });
    assert_eq!(check(dir.path()).unwrap(), []);
    recover(dir.path(), OnDamage::Stop).unwrap();
}
