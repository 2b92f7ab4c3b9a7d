//! The measurement shared by the `commit_rate` examples of sled and SQLite: the cost of a commit on this disk at each durability
//! and batch size, and the speed at which a backlog is recovered, read and acknowledged. Each example defines `Backend`, `Config`
//! and `Durability`.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{
    Batch, Mutation, Place, ReadKey, Recovery, RecoveryReport, Storage, StorageError, StoredEvent,
};

use super::{Backend, Config, Durability};

const EVENT_BYTES: usize = 256;

/// The events of the backlog that is recovered, read and drained.
const BACKLOG: u64 = 1_000_000;

/// Counts recovered events and discards them.
#[derive(Default)]
struct Count(u64);

impl Recovery for Count {
    fn replay(&mut self, mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        self.0 += u64::from(matches!(mutation, Mutation::Publish(_)));
        Ok(())
    }
}

fn topic() -> TopicName {
    TopicName::new("rates").expect("a good name")
}

fn key(seq: u64) -> EventKey {
    EventKey { priority: Priority(0), seq: Seq(seq) }
}

fn payload() -> Payload {
    let frame = Payload::encode("rates", Priority(0), "\"\"", "0000000").len();
    Payload::encode("rates", Priority(0), &format!("{:?}", "x".repeat(EVENT_BYTES - frame)), "0000000")
}

fn batch(payload: &Payload, first: u64, events: u64) -> Batch {
    let topic = topic();
    let publish = |seq| {
        Mutation::Publish(StoredEvent {
            topic: topic.clone(),
            key: key(seq),
            published_at: Millis(1_700_000_000_000),
            expires_at: None,
            due_at: None,
            payload: payload.clone(),
        })
    };
    Batch { mutations: (first..first + events).map(publish).collect() }
}

/// The mutations of acknowledgements: the only subscription settles each event, so it is released.
fn acknowledgements(first: u64, events: u64) -> Batch {
    let subscription = SubscriptionName::new("s").expect("a good name");
    let keys: Vec<_> = (first..first + events).map(key).collect();
    let release = |key: &EventKey| Mutation::Release { topic: topic(), key: *key, place: Place(0) };
    let released: Vec<_> = keys.iter().map(release).collect();
    let settle = Mutation::Settle { topic: topic(), subscription, events: keys };
    Batch { mutations: std::iter::once(settle).chain(released).collect() }
}

fn open(config: Config) -> Result<(Backend, RecoveryReport, u64), StorageError> {
    let storage = Backend::open(config)?;
    let mut count = Count::default();
    let report = storage.recover(&mut count)?;
    Ok((storage, report, count.0))
}

/// Commits batches for `time`, `outstanding` at a time, and returns the elapsed time and how long each took to become durable.
async fn commit(storage: &Backend, events: u64, outstanding: usize, time: Duration) -> (Duration, Vec<Duration>) {
    let payload = payload();
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    let mut took = Vec::new();
    let mut seq = 1;
    loop {
        let more = began.elapsed() < time;
        if more {
            waiting.push_back((Instant::now(), storage.submit(batch(&payload, seq, events))));
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

/// Submits the backlog in batches of 256, with up to 64 outstanding, and waits until all are durable.
async fn pass(storage: &Backend, make: impl Fn(u64, u64) -> Batch) -> Result<Duration, StorageError> {
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    for first in (1..=BACKLOG).step_by(256) {
        waiting.push_back(storage.submit(make(first, 256.min(BACKLOG + 1 - first))));
        if waiting.len() >= 64
            && let Some(commit) = waiting.pop_front()
        {
            commit.durable.await?;
        }
    }
    for commit in waiting {
        commit.durable.await?;
    }
    Ok(began.elapsed())
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

async fn rates(dir: &Path, time: Duration) -> Result<(), Box<dyn Error>> {
    println!("durability  batch  outstanding   commits/s    events/s   p50 µs   p99 µs");
    for durability in [Durability::Always, Durability::Interval, Durability::Never] {
        for (events, outstanding) in [(1, 1), (32, 1), (256, 1), (1, 64), (32, 64), (256, 64)] {
            let path = tempfile::tempdir_in(dir)?;
            let (storage, ..) = open(Config { durability, ..Config::new(path.path().join("data")) })?;
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
    Ok(())
}

async fn backlog(dir: &Path, time: Duration) -> Result<(), Box<dyn Error>> {
    let path = tempfile::tempdir_in(dir)?;
    let config = Config::new(path.path().join("data"));
    let (storage, ..) = open(config.clone())?;
    let subscription = SubscriptionName::new("s")?;
    let subscribe = Mutation::Subscribe { topic: topic(), subscription, since: Seq(0) };
    storage.submit(Batch { mutations: vec![subscribe] }).durable.await?;
    let payload = payload();
    let took = pass(&storage, |first, events| batch(&payload, first, events)).await?;
    println!("publishing {BACKLOG} events: {:.0} events/s", per_second(BACKLOG, took));
    storage.close().await?;
    drop(storage);

    let began = Instant::now();
    let (storage, report, events) = open(config.clone())?;
    let took = began.elapsed();
    println!(
        "recovery: {events} events in {took:.2?}: {:.0} events/s; {} MB on disk",
        per_second(events, took),
        storage.stats().bytes / 1_000_000,
    );
    assert_eq!((events, report.damaged), (BACKLOG, 0));
    for (name, step) in [("in order", 1), ("scattered", 7919)] {
        let (mut at, mut read) = (0, 0);
        let began = Instant::now();
        while began.elapsed() < time {
            let mut next = || {
                at = (at + step) % BACKLOG;
                ReadKey { topic: topic(), key: key(at + 1), place: Place(0) }
            };
            let keys: Vec<_> = (0..256).map(|_| next()).collect();
            read += storage.read(keys).await?.iter().flatten().count() as u64;
        }
        println!("reads of 256 events {name}: {:.0} events/s", per_second(read, began.elapsed()));
    }
    let took = pass(&storage, acknowledgements).await?;
    println!("acknowledging {BACKLOG} events: {:.0} events/s", per_second(BACKLOG, took));
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("5 s later: {} MB on disk", storage.stats().bytes / 1_000_000);
    storage.close().await?;
    drop(storage);
    let (storage, ..) = open(config)?;
    println!("opened again: {} MB on disk", storage.stats().bytes / 1_000_000);
    storage.close().await?;
    Ok(())
}

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let seconds = arguments.next().map_or(Ok(2.0), |seconds| seconds.parse())?;
    let time = Duration::from_secs_f64(seconds);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        rates(&dir, time).await?;
        backlog(&dir, time).await
    })
}
