//! Tests that the tables of a released version stay readable by programs and people, and that a damaged row costs only itself.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::fs;
use std::path::{Path, PathBuf};

use backend_sqlite::{Durability, OnDamage, SqliteConfig, SqliteStorage};
use broker_core::event::Millis;
use broker_core::storage::contract::Model;
use broker_core::storage::contract::bench::{cursor, event, key, settle, subscribe, subscription, topic};
use broker_core::storage::{
    Batch, Level, Mutation, ReadKey, RecoveryReport, Redelivery, Storage, StorageError, StorageErrorKind,
};
use rusqlite::Connection;

fn recover(config: SqliteConfig) -> Result<(SqliteStorage, Model, RecoveryReport), StorageError> {
    let storage = SqliteStorage::open(config)?;
    let mut found = Model::default();
    let report = storage.recover(&mut found)?;
    Ok((storage, found, report))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// One mutation of each kind.
fn history() -> Vec<Mutation> {
    let mut timed = event("a", -3, 2, 10);
    (timed.expires_at, timed.due_at) = (Some(Millis(u64::MAX)), Some(Millis(1_800_000_000_000)));
    let redelivery =
        Redelivery { key: key(-3, 2), deliveries: 3, due_at: Some(Millis(1_900_000_000_000)), grace_ms: 7_000 };
    vec![
        subscribe("a", "one", 0),
        subscribe("a", "two", 0),
        Mutation::Publish(event("a", 0, 1, 30)),
        Mutation::Publish(timed),
        Mutation::Publish(event("a", 0, 3, 20_000)),
        settle("a", "one", [1]),
        Mutation::Redeliver { topic: topic("a"), subscription: subscription("two"), events: vec![redelivery] },
        subscribe("b", "late", 7),
        cursor("feed", "token \"é\""),
    ]
}

fn expected() -> Model {
    let mut expected = Model::default();
    history().iter().for_each(|mutation| expected.apply(mutation));
    expected
}

fn make(dir: &Path) {
    let (storage, ..) = recover(SqliteConfig::new(dir)).unwrap();
    block_on(async {
        storage.submit(Batch { mutations: history() }).durable.await.unwrap();
        storage.close().await.unwrap();
    });
}

fn sql(dir: &Path, statements: &str) {
    Connection::open(dir.join("herald.db")).unwrap().execute_batch(statements).unwrap();
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1/herald.db")
}

#[test]
#[ignore = "writes the fixture of a new version"]
fn write_the_fixture() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    fs::create_dir_all(fixture().parent().unwrap()).unwrap();
    fs::copy(dir.path().join("herald.db"), fixture()).unwrap();
}

#[test]
fn version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture(), dir.path().join("herald.db")).unwrap();
    let (storage, found, report) = recover(SqliteConfig::new(dir.path())).unwrap();
    assert_eq!(report.damaged, 0);
    let mut expected = expected();
    expected.assert_same(&found, "version 1");
    // What this release writes into it is read as well.
    let more = Mutation::Publish(event("a", 0, 4, 30));
    expected.apply(&more);
    block_on(async {
        storage.submit(Batch { mutations: vec![more] }).durable.await.unwrap();
        storage.close().await.unwrap();
    });
    drop(storage);
    let (_storage, found, report) = recover(SqliteConfig::new(dir.path())).unwrap();
    assert_eq!(report.damaged, 0);
    expected.assert_same(&found, "version 1, carried on");
}

#[test]
fn a_person_can_ask_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let (_storage, ..) = recover(SqliteConfig::new(dir.path())).unwrap();
    // The broker has the database open.
    let database = Connection::open(dir.path().join("herald.db")).unwrap();
    let ask = |query: &str| {
        let mut statement = database.prepare(query).unwrap();
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let text = |at| row.get::<_, rusqlite::types::Value>(at).map(|value| format!("{value:?}"));
            (0..columns).map(text).collect::<Result<Vec<_>, _>>().map(|columns| columns.join(" "))
        };
        statement.query_map((), row).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(
        ask("select topic, priority, count(*) from waiting group by topic, priority order by 1, 2"),
        ["Text(\"a\") Integer(-3) Integer(2)", "Text(\"a\") Integer(0) Integer(3)",],
    );
    assert_eq!(
        ask("select subscription, seq, id, deliveries, due from waiting where seq < 3 order by subscription, seq"),
        [
            "Text(\"one\") Integer(2) Text(\"id-2\") Integer(0) Text(\"2027-01-15 08:00:00\")",
            "Text(\"two\") Integer(1) Text(\"id-1\") Integer(0) Null",
            "Text(\"two\") Integer(2) Text(\"id-2\") Integer(3) Text(\"2030-03-17 17:46:40\")",
        ],
    );
    assert_eq!(ask("select value from cursors where source = 'feed'"), ["Text(\"token \\\"é\\\"\")"]);
    assert_eq!(ask("pragma quick_check"), ["Text(\"ok\")"]);
}

#[test]
fn a_damaged_row_costs_only_itself() {
    type Effect = fn(&mut Model);
    let cases: [(&str, Effect); 8] = [
        ("update events set priority = 9 where seq = 2", |m| drop(m.topics.get_mut("a").unwrap().events.remove(&2))),
        ("update events set payload = replace(payload, 'x', 'y') where seq = 3", |m| {
            drop(m.topics.get_mut("a").unwrap().events.remove(&3));
        }),
        ("update settled set crc = crc + 1", |m| {
            m.topics.get_mut("a").unwrap().events.get_mut(&1).unwrap().holders.insert("one".into(), (0, None, 0));
        }),
        ("update requeued set deliveries = 99", |m| {
            m.topics.get_mut("a").unwrap().events.get_mut(&2).unwrap().holders.insert("two".into(), (0, None, 0));
        }),
        ("update cursors set value = 'another'", |m| m.cursors.clear()),
        ("update subscriptions set since = 2 where name = 'one'", |_| {}),
        ("update subscriptions set since = 3 where name = 'two'", |_| {}),
        ("update topics set crc = 0 where name = 'a'", |m| m.topics.get_mut("a").unwrap().last_seq += 1 << 40),
    ];
    for (statement, effect) in cases {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        sql(dir.path(), statement);
        let (storage, found, report) = recover(SqliteConfig::new(dir.path())).unwrap();
        let mut expected = expected();
        effect(&mut expected);
        expected.assert_same(&found, statement);
        assert_eq!((report.damaged, storage.stats().damaged), (1, 1), "{statement}");
        if statement.contains("priority") {
            let wanted = ReadKey { topic: topic("a"), key: key(-3, 2), place: Default::default() };
            assert_eq!(block_on(storage.read(vec![wanted])).unwrap(), [None]);
            assert_eq!(storage.stats().damaged, 2);
        }
        drop(storage);
        let stop = SqliteConfig { on_damage: OnDamage::Stop, ..SqliteConfig::new(dir.path()) };
        let error = recover(stop).err().unwrap();
        assert_eq!(error.kind(), StorageErrorKind::Unusable, "{statement}");
        assert!(error.to_string().contains("on_damage"), "{error}");
    }
}

#[test]
fn a_damaged_page_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let path = dir.path().join("herald.db");
    let root: i64 = Connection::open(&path)
        .unwrap()
        .query_row("select rootpage from sqlite_schema where name = 'events'", (), |row| row.get(0))
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = (root as usize - 1) * 8192;
    bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(&path, &bytes).unwrap();
    let error = recover(SqliteConfig::new(dir.path())).err().unwrap();
    assert_eq!(error.kind(), StorageErrorKind::Unusable, "{error}");
    assert!(error.to_string().contains("herald fsck --repair"), "{error}");
}

#[test]
fn damage_in_the_description_of_the_tables_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let path = dir.path().join("herald.db");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(18).position(|window| window == b"deliveries integer").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = recover(SqliteConfig::new(dir.path())).err().unwrap();
    assert_eq!(error.kind(), StorageErrorKind::Unusable, "{error}");
    assert!(error.to_string().contains("herald fsck --repair"), "{error}");
}

/// SQLite returns whatever a damaged page holds, even a value of the wrong type.
#[test]
fn a_column_of_another_type_costs_only_its_row() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    // This imitates damage: in a strict table nothing else stores a wrong type.
    let strictness = "pragma writable_schema = on;
        update sqlite_schema set sql = replace(sql, 'strict, without rowid', 'without rowid') where name = 'events'";
    sql(dir.path(), strictness);
    sql(dir.path(), "update events set published_at = 'x' where seq = 1");
    let (storage, found, report) = recover(SqliteConfig::new(dir.path())).unwrap();
    assert!(report.damaged > 0, "{report:?}");
    assert_eq!(found.topics["a"].events.keys().collect::<Vec<_>>(), [&2, &3]);
    let wanted = ReadKey { topic: topic("a"), key: key(0, 1), place: Default::default() };
    assert_eq!(block_on(storage.read(vec![wanted])).unwrap(), [None]);
}

/// The checksums of rows do not reveal a row that is not listed.
#[test]
fn a_row_that_its_page_does_not_list_any_more_is_noticed() {
    // The page lists one row too few, or the second row twice and the first not at all.
    for damage in [|page: &mut [u8]| page[4] -= 1, |page: &mut [u8]| page.copy_within(10..12, 8)] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let path = dir.path().join("herald.db");
        let root: i64 = Connection::open(&path)
            .unwrap()
            .query_row("select rootpage from sqlite_schema where name = 'events'", (), |row| row.get(0))
            .unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let page = &mut bytes[(root as usize - 1) * 8192..root as usize * 8192];
        assert_eq!((page[0], page[3], page[4]), (10, 0, 3), "a leaf with three rows");
        damage(page);
        fs::write(&path, &bytes).unwrap();
        let (storage, _, report) = recover(SqliteConfig::new(dir.path())).unwrap();
        assert!(report.damaged > 0, "{report:?}");
        drop(storage);
        let stop = SqliteConfig { on_damage: OnDamage::Stop, ..SqliteConfig::new(dir.path()) };
        let error = recover(stop).err().unwrap();
        assert_eq!(error.kind(), StorageErrorKind::Unusable, "{error}");
    }
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    for statements in ["create table other (x)", "pragma application_id = 7; create table topics (x)"] {
        let dir = tempfile::tempdir().unwrap();
        sql(dir.path(), statements);
        let before = fs::read(dir.path().join("herald.db")).unwrap();
        let error = SqliteStorage::open(SqliteConfig::new(dir.path())).err().unwrap();
        assert_eq!(error.kind(), StorageErrorKind::Unusable, "{error}");
        assert_eq!(fs::read(dir.path().join("herald.db")).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no lock file is left");
    }
}

#[test]
fn a_database_whose_making_was_interrupted_is_made() {
    for bytes in [&b""[..], &fs::read(fixture()).unwrap()[..0]] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("herald.db"), bytes).unwrap();
        let (_storage, found, _) = recover(SqliteConfig::new(dir.path())).unwrap();
        assert_eq!(found, Model::default());
    }
    // The broker was killed before it created the tables.
    let dir = tempfile::tempdir().unwrap();
    sql(dir.path(), "pragma page_size = 8192; pragma auto_vacuum = incremental; pragma journal_mode = wal;");
    let (_storage, found, _) = recover(SqliteConfig::new(dir.path())).unwrap();
    assert_eq!(found, Model::default());
}

#[test]
fn a_failed_commit_takes_the_storage_out_of_service() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, ..) = recover(SqliteConfig::new(dir.path())).unwrap();
    block_on(storage.submit(Batch { mutations: vec![subscribe("a", "one", 0)] }).durable).unwrap();
    sql(dir.path(), "alter table events rename to elsewhere");
    let publish = |seq| Batch { mutations: vec![cursor("feed", seq), Mutation::Publish(event("a", 0, seq, 10))] };
    let error = block_on(storage.submit(publish(1)).written).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Failed, "{error}");
    sql(dir.path(), "alter table elsewhere rename to events");
    let commit = storage.submit(publish(2));
    let again = block_on(commit.written).unwrap_err();
    assert_eq!(again.to_string(), error.to_string(), "the first error is kept");
    assert!(block_on(commit.durable).is_err() && block_on(storage.close()).is_err());
    drop(storage);
    let (_storage, found, _) = recover(SqliteConfig::new(dir.path())).unwrap();
    assert!(found.cursors.is_empty() && found.topics["a"].events.is_empty(), "all or nothing");
}

#[test]
fn levels_are_named_and_the_interval_syncs() {
    let dir = tempfile::tempdir().unwrap();
    for (durability, level) in [
        (Durability::Always, Level::Synced),
        (Durability::Interval, Level::Written),
        (Durability::Never, Level::Memory),
    ] {
        let config = SqliteConfig { durability, sync_interval_ms: 20, ..SqliteConfig::new(dir.path()) };
        let (storage, ..) = recover(config).unwrap();
        assert_eq!(storage.level(), level);
        block_on(storage.submit(Batch { mutations: vec![cursor("feed", 1)] }).durable).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(storage.stats().syncs, u64::from(durability != Durability::Never), "{durability:?}");
    }
}

#[test]
fn clean_on_start_removes_the_database_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let clean = SqliteConfig { clean_on_start: true, ..SqliteConfig::new(dir.path()) };
    let (_storage, found, _) = recover(clean).unwrap();
    assert_eq!(found, Model::default());
    assert!(dir.path().join("notes.txt").exists());
}
