//! Measures the cost of a commit on this disk, at each durability and batch size, and how fast a log is recovered and read.
//!
//! ```text
//! cargo run --release -p backend-json-log --example commit_rate [directory on the disk to measure] [seconds per line]
//! ```
//!
//! The directory must be on the disk in question: `/tmp` is often in memory.
#![expect(clippy::print_stdout, reason = "it prints its results")]

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use backend_json_log::{Durability, JsonLogConfig, JsonLogStorage};
use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::TopicName;
use broker_core::storage::{Batch, Mutation, Place, ReadKey, Recovery, Storage, StorageError, StoredEvent};

const EVENT_BYTES: usize = 256;

#[derive(Default)]
struct Places(Vec<(EventKey, Place)>);

impl Recovery for Places {
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError> {
        if let Mutation::Publish(event) = mutation {
            self.0.push((event.key, place));
        }
        Ok(())
    }
}

fn batch(topic: &TopicName, payload: &Payload, first: u64, events: u64) -> Batch {
    let publish = |seq| {
        Mutation::Publish(StoredEvent {
            topic: topic.clone(),
            key: EventKey { priority: Priority(0), seq: Seq(seq) },
            published_at: Millis(1_700_000_000_000),
            expires_at: None,
            due_at: None,
            payload: payload.clone(),
        })
    };
    Batch { mutations: (first..first + events).map(publish).collect() }
}

/// Commits batches for `time`, `outstanding` at a time, and returns the elapsed time and how long each took to become durable.
async fn commit(
    storage: &JsonLogStorage,
    events: u64,
    outstanding: usize,
    time: Duration,
) -> (Duration, Vec<Duration>) {
    let topic = TopicName::new("rates").expect("a good name");
    let frame = Payload::encode("rates", Priority(0), "\"\"", "0000000").len();
    let payload = Payload::encode("rates", Priority(0), &format!("{:?}", "x".repeat(EVENT_BYTES - frame)), "0000000");
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    let mut took = Vec::new();
    let mut seq = 1;
    loop {
        let more = began.elapsed() < time;
        if more {
            waiting.push_back((Instant::now(), storage.submit(batch(&topic, &payload, seq, events))));
            seq += events;
        }
        if waiting.len() >= outstanding || !more {
            let Some((submitted, commit)) = waiting.pop_front() else { return (began.elapsed(), took) };
            commit.written.await.expect("the disk takes it");
            commit.durable.await.expect("the disk keeps it");
            took.push(submitted.elapsed());
        }
    }
}

async fn measure(dir: &Path, time: Duration) -> Result<(), Box<dyn Error>> {
    println!("durability  batch  outstanding   commits/s    events/s   p50 µs   p99 µs");
    for durability in [Durability::Always, Durability::Interval, Durability::Never] {
        for (events, outstanding) in [(1, 1), (32, 1), (256, 1), (1, 64), (32, 64), (256, 64)] {
            let path = tempfile::tempdir_in(dir)?;
            let storage =
                JsonLogStorage::open(JsonLogConfig { durability, ..JsonLogConfig::new(path.path().join("log")) })?;
            storage.recover(&mut Places::default())?;
            let (elapsed, mut took) = commit(&storage, events, outstanding, time).await;
            storage.close().await?;
            took.sort_unstable();
            let rate = took.len() as f64 / elapsed.as_secs_f64();
            println!(
                "{:10} {events:6} {outstanding:12} {rate:11.0} {:11.0} {:8} {:8}",
                format!("{durability:?}").to_lowercase(),
                rate * events as f64,
                took[took.len() / 2].as_micros(),
                took[took.len() * 99 / 100].as_micros(),
            );
        }
    }

    let path = tempfile::tempdir_in(dir)?;
    let config = JsonLogConfig { durability: Durability::Never, ..JsonLogConfig::new(path.path()) };
    let storage = JsonLogStorage::open(config.clone())?;
    storage.recover(&mut Places::default())?;
    let topic = TopicName::new("rates")?;
    let payload = Payload::encode("rates", Priority(0), &format!("{:?}", "x".repeat(EVENT_BYTES - 60)), "0000000");
    for n in 0..1_000_000 / 100 {
        storage.submit(batch(&topic, &payload, 1 + n * 100, 100)).written.await?;
    }
    storage.close().await?;
    let storage = JsonLogStorage::open(config)?;
    let mut places = Places::default();
    let began = Instant::now();
    let report = storage.recover(&mut places)?;
    let took = began.elapsed();
    println!(
        "recovery: {} records, {} MB in {took:.2?}: {:.0} MB/s",
        report.records,
        report.bytes / 1_000_000,
        report.bytes as f64 / 1e6 / took.as_secs_f64()
    );
    for (name, step) in [("in order", 1), ("scattered", 7919)] {
        let (mut at, mut read) = (0, 0);
        let began = Instant::now();
        while began.elapsed() < time {
            let mut key = || {
                at = (at + step) % places.0.len();
                let (key, place) = places.0[at];
                ReadKey { topic: topic.clone(), key, place }
            };
            let keys: Vec<_> = (0..256).map(|_| key()).collect();
            read += storage.read(keys).await?.iter().flatten().count();
        }
        println!("reads of 256 events {name}: {:.0} events/s", read as f64 / began.elapsed().as_secs_f64());
    }
    storage.close().await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let seconds = arguments.next().map_or(Ok(2.0), |seconds| seconds.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(measure(&dir, Duration::from_secs_f64(seconds)))
}
