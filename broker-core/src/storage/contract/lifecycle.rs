//! Claims about opening, refusing to open, closing, and space.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::ContractBackend;
use super::bench::{Bench, cursor, disk_bytes, event, files, key, open_patiently, subscribe};
use super::client::{Client, drop_engine, new_event, open_engine};
use crate::engine::Engine;
use crate::storage::{Batch, Mutation, Storage, StorageErrorKind};

/// The error names the process that has the directory, and the open storage goes on.
pub async fn opening_it_twice_is_refused_and_says_who_has_it<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    let error = B::open(&bench.path()).err().expect("a second one is refused");
    assert_eq!(error.kind(), StorageErrorKind::Locked, "{error}");
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()), "it says who has it: {text}");
    assert!(text.contains(&bench.path().display().to_string()), "it says what: {text}");
    bench.commit(vec![Mutation::Publish(event("t", 0, 1, 10))]).await;
    bench.check_after_drop("after a second one was refused");
}

/// After closing, submitting, reading and closing fail, and the directory can be opened at once.
pub async fn closing_frees_the_directory_and_later_calls_fail<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0), Mutation::Publish(event("t", 0, 1, 10))]).await;
    let storage = bench.storage().clone();
    bench.close().await;
    let commit = storage.submit(Batch { mutations: vec![cursor("c", 1)] });
    let error = commit.written.await.expect_err("it is closed");
    assert_eq!(error.kind(), StorageErrorKind::Closed);
    assert_eq!(commit.durable.await.expect_err("it is closed").kind(), StorageErrorKind::Closed);
    let read = storage.read(vec![bench.read_key("t", key(0, 1))]).await;
    assert_eq!(read.expect_err("it is closed").kind(), StorageErrorKind::Closed);
    assert!(storage.close().await.is_err(), "it is closed");
    // The old storage still exists, but has released the directory.
    drop(open_patiently::<B>(&bench.path()));
    drop(storage);
}

/// The error is `Unusable`, and no byte changes.
pub async fn a_newer_format_is_refused_and_left_alone<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0), Mutation::Publish(event("t", 0, 1, 10))]).await;
    bench.close().await;
    B::make_newer(&bench.path());
    let error = refused_untouched::<B>(&bench.path(), "a newer format");
    assert!(error.contains("`herald export`"), "it says the way back: {error}");
}

/// Checks that the directory is refused and left as it is; returns the error's text.
fn refused_untouched<B: ContractBackend>(dir: &Path, what: &str) -> String {
    let before = files(dir);
    let error = B::open(dir).err().unwrap_or_else(|| panic!("{what} is refused"));
    assert_eq!(error.kind(), StorageErrorKind::Unusable, "{what}: {error}");
    assert!(error.to_string().contains(&dir.display().to_string()), "{what}: it says where: {error}");
    let after = files(dir);
    let names =
        |files: &[(std::path::PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "{what}: no file comes or goes");
    assert!(before == after, "{what}: nothing in the files changes");
    error.to_string()
}

/// Data directories of the other kinds.
pub async fn a_directory_of_another_kind_is_refused_and_left_alone<B: ContractBackend>() {
    let kind = Bench::<B>::new().storage().kind();
    for other in ["json-log", "sled", "sqlite"].into_iter().filter(|other| *other != kind) {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("it can be made");
        match other {
            "json-log" => json_log(&data),
            "sled" => sled(&data),
            _ => sqlite(&data),
        }
        refused_untouched::<B>(&data, other);
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).expect("it can be written");
}

fn json_log(dir: &Path) {
    let header =
        "{\"herald\":\"json-log\",\"version\":1,\"segment\":1,\"created\":0,\"oldest\":1,\"next_batch\":1,\"left\":0";
    let crc = crc32(header.as_bytes());
    write(dir, "0000000000000001.jsonl", format!("{header},\"crc\":\"{crc:08x}\"}}\n").as_bytes());
}

/// The CRC-32 of a line of the JSON log, bit by bit: it is needed for one line.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn sled(dir: &Path) {
    write(dir, "conf", b"segment_size: 524288\nuse_compression: false\nversion: 0.34\n");
    write(dir, "db", &[0; 4096]);
}

fn sqlite(dir: &Path) {
    let mut start = b"SQLite format 3\0".to_vec();
    start.resize(4096, 0);
    write(dir, "herald.db", &start);
}

/// Batches and bytes.
pub async fn statistics_count_batches_and_bytes<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    let before = bench.storage().stats();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    for seq in 1..=10 {
        bench.commit(vec![Mutation::Publish(event("t", 0, seq, 10_000))]).await;
    }
    let after = bench.storage().stats();
    assert_eq!(after.batches - before.batches, 11);
    assert!(after.syncs > before.syncs, "each was durable: {after:?}");
    assert!(after.bytes >= 100_000, "its files hold the events: {after:?}");
    assert_eq!(after.damaged, 0);
}

/// 96 MiB pass through. The directory then shrinks to a small part of that: at once, after a while, or when it is opened again.
/// Events that still wait are kept.
pub async fn space_of_what_is_gone_comes_back<B: ContractBackend>() {
    const EVENTS: usize = 24 << 10;
    let dir = tempfile::tempdir().expect("a directory for the test");
    let (engine, storage) = open_engine::<B>(dir.path(), 8 << 20).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", "s", 500).await;
    client.subscribe("kept", "s", 1).await;
    engine.publish(vec![new_event("kept", "kept", 0, 100)], None).await.expect("it is stored");
    for part in (0..EVENTS).collect::<Vec<_>>().chunks(256) {
        let events = part.iter().map(|number| new_event("t", &format!("e{number}"), 0, 4 << 10)).collect();
        engine.publish(events, None).await.expect("it is stored");
    }
    let peak = disk_bytes(dir.path());
    assert!(peak > 48 << 20, "the backlog is on disk: {peak}");
    let kept = client.delivery_of("kept").await;
    assert_eq!(super::client::id_of(kept), "kept");
    let mut drained = 0;
    while drained < EVENTS {
        drained += client.drain_some("t").await.len();
    }
    let mut small = wait_until_small(dir.path(), peak).await;
    drop(client);
    engine.close().await;
    drop_engine::<B>(engine, storage).await;
    let (engine, storage) = open_engine::<B>(dir.path(), 8 << 20).await;
    small = small || wait_until_small(dir.path(), peak).await;
    assert!(small, "{peak} bytes at the peak, {} when all but one event was gone", disk_bytes(dir.path()));
    assert!(storage.stats().bytes < peak / 4, "{:?}", storage.stats());
    let mut client = Client::new(&engine);
    assert_eq!(client.waiting("kept").await, (1, 0));
    drop(client);
    drop_engine::<B>(engine, storage).await;
}

async fn wait_until_small(dir: &Path, peak: u64) -> bool {
    let began = Instant::now();
    while disk_bytes(dir) > peak / 8 {
        if began.elapsed() > Duration::from_secs(10) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}
