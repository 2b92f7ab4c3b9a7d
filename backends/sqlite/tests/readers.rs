//! Tests that a reader of the database never delays the broker, and that the log becomes short again.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backend_sqlite::{Durability, SqliteConfig, SqliteStorage};
use broker_core::storage::contract::Model;
use broker_core::storage::contract::bench::{event, key, settle, subscribe, topic};
use broker_core::storage::{Batch, Mutation, ReadKey, Storage};
use rusqlite::{Connection, OpenFlags};

/// Longer than any commit takes on a loaded machine, and shorter than SQLite's wait for a reader, which is 10 s.
const STALLED: Duration = Duration::from_secs(5);

fn open(dir: &Path) -> SqliteStorage {
    let storage =
        SqliteStorage::open(SqliteConfig { durability: Durability::Interval, ..SqliteConfig::new(dir) }).unwrap();
    storage.recover(&mut Model::default()).unwrap();
    storage
}

fn log(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("herald.db-wal")).map_or(0, |metadata| metadata.len())
}

/// A reader with an open snapshot, like a query whose output is not read to its end.
fn reader(dir: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(dir.join("herald.db"), flags).unwrap();
    reader.execute_batch("begin; select count(*) from topics").unwrap();
    reader
}

/// Publishes events of 64 KiB and returns the longest time of a commit.
async fn publish(storage: &SqliteStorage, seqs: std::ops::Range<u64>) -> Duration {
    let mut longest = Duration::ZERO;
    for seq in seqs {
        let began = Instant::now();
        storage
            .submit(Batch { mutations: vec![Mutation::Publish(event("a", 0, seq, 64 << 10))] })
            .written
            .await
            .unwrap();
        longest = longest.max(began.elapsed());
    }
    longest
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_an_open_snapshot_stalls_no_batch() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path());
    storage.submit(Batch { mutations: vec![subscribe("a", "one", 0)] }).durable.await.unwrap();
    let reading = reader(dir.path());
    let mut seq = 1;
    // The log is emptied after a second or two without writes. A commit would have to wait during that.
    for _pause in 0..4 {
        let longest = publish(&storage, seq..seq + 40).await;
        assert!(longest < STALLED, "a commit took {longest:?}");
        seq += 40;
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert!(log(dir.path()) > 1 << 20, "the reader keeps the log long");
    drop(reading);
    until("the log is emptied", || log(dir.path()) < 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_a_reader_kept_long_is_moved_while_the_writer_continues() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path());
    storage.submit(Batch { mutations: vec![subscribe("a", "one", 0)] }).durable.await.unwrap();
    let reading = reader(dir.path());
    publish(&storage, 1..1800).await;
    assert!(log(dir.path()) > 100 << 20, "{}", log(dir.path()));
    // One round of maintenance finds the long log.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(reading);
    let mut seq = 1800;
    let began = Instant::now();
    while log(dir.path()) > 64 << 20 {
        assert!(began.elapsed() < Duration::from_secs(60), "{} bytes of log", log(dir.path()));
        let longest = publish(&storage, seq..seq + 1).await;
        assert!(longest < STALLED, "a commit took {longest:?}");
        seq += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_without_a_pause_do_not_keep_the_log_growing() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(open(dir.path()));
    storage.submit(Batch { mutations: vec![subscribe("a", "one", 0)] }).durable.await.unwrap();
    publish(&storage, 1..200).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for first in 0..8 {
        let (storage, done) = (Arc::clone(&storage), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let wanted = |seq| ReadKey { topic: topic("a"), key: key(0, seq), place: Default::default() };
            while !done.load(Ordering::Relaxed) {
                let keys = (1..20).map(|seq| wanted(seq + first * 20)).collect();
                let found = storage.read(keys).await.unwrap();
                assert!(found.iter().all(Option::is_some));
            }
        }));
    }
    let mut seq = 200;
    let mut most = 0;
    let began = Instant::now();
    while seq < 6000 && began.elapsed() < Duration::from_secs(40) {
        publish(&storage, seq..seq + 20).await;
        // Older events are settled, so the database stays small.
        let done = settle("a", "one", seq..seq + 20);
        storage.submit(Batch { mutations: vec![done] }).written.await.unwrap();
        seq += 20;
        most = most.max(log(dir.path()));
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(most < 256 << 20, "{most} bytes of log after {} MiB", (seq - 200) / 16);
}
