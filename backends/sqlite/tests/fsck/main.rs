//! Tests that a check finds all damage and changes nothing, and that a repair keeps all that is intact.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod log_damage;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use backend_sqlite::{OnDamage, SqliteCheck, SqliteConfig, SqliteStorage};
use broker_core::storage::check::{Check, Finding, Inspector, Severity};
use broker_core::storage::contract::Model;
use broker_core::storage::contract::bench::{cursor, event, key, settle, subscribe, subscription, topic};
use broker_core::storage::{Batch, Mutation, Redelivery, Storage, StorageError, StorageErrorKind};
use rusqlite::Connection;

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
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
}

fn history(events: u64) -> Vec<Vec<Mutation>> {
    let mut batches = vec![vec![subscribe("a", "one", 0), subscribe("a", "two", 0), subscribe("b", "late", 7)]];
    for first in (1..=events).step_by(50) {
        let seqs = first..(first + 50).min(events + 1);
        let mut batch: Vec<_> = seqs.clone().map(|seq| Mutation::Publish(event("a", 0, seq, 200))).collect();
        batch.push(settle("a", "one", [first]));
        let redelivery = Redelivery { key: key(0, first + 1), deliveries: 3, due_at: None, grace_ms: 0 };
        batch.push(Mutation::Redeliver {
            topic: topic("a"),
            subscription: subscription("two"),
            events: vec![redelivery],
        });
        batch.push(cursor("feed", first));
        batches.push(batch);
    }
    batches
}

/// A database with `events` events. With `log`, the last commits are in SQLite's log, as after a kill.
fn make(dir: &Path, events: u64, log: bool) {
    let held = tempfile::tempdir().unwrap();
    let made = if log { held.path() } else { dir };
    let storage = SqliteStorage::open(SqliteConfig::new(made)).unwrap();
    storage.recover(&mut Model::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for mutations in history(events) {
            storage.submit(Batch { mutations }).durable.await.unwrap();
        }
        if log {
            copy(made, dir);
        }
        storage.close().await.unwrap();
    });
}

fn check(dir: &Path) -> Result<Vec<Finding>, StorageError> {
    let mut findings = Findings::default();
    let before = files(dir);
    let checked = SqliteCheck::open(SqliteConfig::new(dir))?.check(&mut findings)?;
    assert!(files(dir) == before, "checking changes nothing: {:?}", files(dir).keys());
    let damage = findings.0.iter().filter(|finding| finding.severity == Severity::Damage).count();
    assert_eq!(checked.damage, damage as u64);
    Ok(findings.0)
}

fn recover(dir: &Path, on_damage: OnDamage) -> Result<Model, StorageError> {
    let storage = SqliteStorage::open(SqliteConfig { on_damage, ..SqliteConfig::new(dir) })?;
    let mut found = Model::default();
    storage.recover(&mut found)?;
    Ok(found)
}

/// Repairs the database, and checks that it is clean afterwards and that a broker starts.
#[track_caller]
fn repaired(dir: &Path) -> Model {
    SqliteCheck::open(SqliteConfig::new(dir)).unwrap().repair(&mut Findings::default()).unwrap();
    let left = check(dir).unwrap();
    assert!(left.is_empty(), "{left:?}");
    recover(dir, OnDamage::Stop).unwrap()
}

fn sql(dir: &Path, statements: &str) {
    Connection::open(dir.join("herald.db")).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn a_clean_database_is_clean_with_and_without_a_log() {
    for log in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), 120, log);
        assert_eq!(dir.path().join("herald.db-wal").exists(), log);
        assert!(check(dir.path()).unwrap().is_empty());
        let expected = recover(dir.path(), OnDamage::Stop).unwrap();
        assert_eq!(expected.topics["a"].events.len(), 120, "the check reads the log");
        expected.assert_same(&repaired(dir.path()), "a repair changes nothing in a clean database");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(check(empty.path()).unwrap().is_empty());
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn a_row_that_does_not_check_is_found_and_moved_out() {
    for (statement, rows, what) in [
        ("update events set payload = payload || ' ' where seq = 5", 1, "event 5 of topic a"),
        ("update events set seq = 4000 where seq = 6", 1, "event 4000 of topic a"),
        ("update settled set crc = crc + 1", 3, "the settlement of event 1 of topic a by subscription number 1"),
        ("update requeued set deliveries = 9", 3, "the delivery count of event 2 of topic a for subscription number 2"),
        ("update cursors set value = 'x'", 1, "the cursor of source feed"),
        ("update topics set last_seq = 0 where name = 'a'", 1, "topic a (number 1)"),
        ("update subscriptions set since = 3 where name = 'two'", 1, "subscription two (number 2) of topic a"),
        (
            "update topics set name = cast(x'ff' as text) where name = 'b'",
            2,
            "a row of topics with the key [Integer(2)]",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), 120, false);
        sql(dir.path(), statement);
        let findings = check(dir.path()).unwrap();
        assert_eq!(findings.len(), rows, "{statement}: {findings:?}");
        assert!(findings[0].to_string().contains(what), "{statement}: {}", findings[0]);
        let stopped = recover(dir.path(), OnDamage::Stop).unwrap_err();
        assert_eq!(stopped.kind(), StorageErrorKind::Unusable, "{stopped}");
        let before = recover(dir.path(), OnDamage::Serve).ok();
        let found = repaired(dir.path());
        if let Some(mut before) = before {
            // Without its row, the topic's latest sequence is that of its latest event.
            before.topics.values_mut().filter(|topic| topic.last_seq == 4000).for_each(|topic| topic.last_seq = 120);
            before.assert_same(&found, statement);
        }
        let side = fs::read_to_string(dir.path().join("damaged/000001.ndjson")).unwrap();
        assert_eq!(side.lines().count(), rows, "{side}");
        side.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
    }
}

/// A flipped bit anywhere is found or has no effect, and is repaired.
#[test]
fn a_flipped_bit_costs_little() {
    let origin = tempfile::tempdir().unwrap();
    make(origin.path(), 1500, false);
    let bytes = fs::read(origin.path().join("herald.db")).unwrap();
    let whole = recover(origin.path(), OnDamage::Stop).unwrap().topics["a"].events.len();
    let (mut found_any, mut dear) = (0, 0);
    // The loop starts after the file's header, without which the file is not recognized as a database.
    for at in (101..bytes.len()).step_by(bytes.len() / 40) {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        fs::write(dir.path().join("herald.db"), bytes).unwrap();
        let Ok(findings) = check(dir.path()) else { continue };
        if findings.is_empty() {
            assert_eq!(recover(dir.path(), OnDamage::Stop).unwrap().topics["a"].events.len(), whole, "byte {at}");
            continue;
        }
        found_any += 1;
        let left = repaired(dir.path()).topics["a"].events.len();
        dear += u32::from(left + 40 < whole);
    }
    assert!(found_any > 20 && dear == 0, "{dear} of {found_any}");
}

#[test]
fn a_destroyed_page_costs_the_rows_on_it_and_the_old_database_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 3000, false);
    let path = dir.path().join("herald.db");
    let mut bytes = fs::read(&path).unwrap();
    // With two destroyed pages, there are rows before, between and after them.
    let pages = bytes.len() / 8192;
    for page in [pages / 3, 2 * pages / 3] {
        bytes[page * 8192..page * 8192 + 64].fill(0xff);
    }
    fs::write(&path, &bytes).unwrap();
    let findings = check(dir.path()).unwrap();
    assert!(findings[0].what.contains("structure"), "{findings:?}");
    let left = repaired(dir.path()).topics["a"].events.len();
    assert!(left < 3000 && left > 2850, "{left}");
    assert_eq!(fs::read(dir.path().join("damaged/000001.herald.db")).unwrap(), bytes);
}

/// The test destroys the root page of each table and index, which leads to all other pages.
#[test]
fn a_destroyed_root_costs_hardly_more_than_what_was_on_it() {
    let origin = tempfile::tempdir().unwrap();
    make(origin.path(), 3000, false);
    let connection = Connection::open(origin.path().join("herald.db")).unwrap();
    let mut statement = connection.prepare("select name, rootpage from sqlite_schema where rootpage > 0").unwrap();
    let roots = statement.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)? as usize))).unwrap();
    let roots: Vec<_> = roots.map(Result::unwrap).filter(|(name, _)| name != "sqlite_sequence").collect();
    drop(statement);
    drop(connection);
    let whole = recover(origin.path(), OnDamage::Stop).unwrap();
    assert_eq!(roots.len(), 8, "{roots:?}");
    for (name, root) in roots {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let path = dir.path().join("herald.db");
        let mut bytes = fs::read(&path).unwrap();
        bytes[(root - 1) * 8192..root * 8192].fill(0xff);
        fs::write(&path, &bytes).unwrap();
        assert!(!check(dir.path()).unwrap().is_empty(), "{name}");
        let found = repaired(dir.path());
        assert_eq!(found.topics.keys().collect::<Vec<_>>(), ["a", "b"], "{name}");
        assert_eq!(found.topics["a"].subscriptions.len(), 2, "{name}");
        let left = found.topics["a"].events.len();
        // An inner page holds some rows of its own.
        assert!(left > 2800, "{name}: {left}");
        if name != "events" {
            assert_eq!(left, 3000, "{name}");
        }
        if name.starts_with("sqlite_autoindex") {
            whole.assert_same(&found, &name);
        }
    }
}

/// Deleted rows are still on pages that are not in use. They must not reappear.
#[test]
fn acknowledged_events_do_not_reappear_when_pages_are_searched() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 3000, false);
    sql(dir.path(), "delete from events where seq <= 2900");
    let connection = Connection::open(dir.path().join("herald.db")).unwrap();
    let query = "select rootpage from sqlite_schema where name = 'events'";
    let root = connection.query_row(query, (), |row| row.get::<_, u32>(0)).unwrap() as usize;
    connection.execute_batch("pragma wal_checkpoint(truncate)").unwrap();
    drop(connection);
    let path = dir.path().join("herald.db");
    let mut bytes = fs::read(&path).unwrap();
    bytes[(root - 1) * 8192..(root - 1) * 8192 + 8].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    let found = repaired(dir.path());
    let events: Vec<_> = found.topics["a"].events.keys().copied().collect();
    assert!(events.iter().all(|seq| *seq > 2900), "{events:?}");
    assert!(events.len() > 80, "{}", events.len());
}

#[test]
fn the_draft_of_an_interrupted_repair_is_a_note_and_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 300, false);
    sql(dir.path(), "update events set crc = 1 where seq = 5");
    fs::write(dir.path().join("herald.db.draft"), "half").unwrap();
    let findings = check(dir.path()).unwrap();
    assert_eq!(findings[0].severity, Severity::Note, "{findings:?}");
    recover(dir.path(), OnDamage::Serve).unwrap();
}

#[test]
fn a_directory_in_use_is_refused_with_the_name_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let _storage = SqliteStorage::open(SqliteConfig::new(dir.path())).unwrap();
    let error = SqliteCheck::open(SqliteConfig::new(dir.path())).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Locked);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}
