//! The benchmark shared by `benches/commit.rs` of each storage, so that all are measured alike.

use std::cell::Cell;
use std::time::Duration;

use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::TopicName;
use broker_core::storage::{Batch, Mutation, Place, Recovery, Storage, StorageError, StoredEvent};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use tokio::runtime::Runtime;

/// The numbers of events per commit.
const EVENTS: [u64; 3] = [1, 32, 256];

/// The length of an event, as in `herald bench`.
const EVENT_BYTES: usize = 256;

struct Nothing;

impl Recovery for Nothing {
    fn replay(&mut self, _mutation: Mutation, _place: Place) -> Result<(), StorageError> {
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

/// Measures sequential commits to the empty storage that `open` creates, each from submission until it is durable.
pub(crate) fn measure<S: Storage>(c: &mut Criterion, durability: &str, open: impl Fn() -> S) {
    let runtime = Runtime::new().expect("a runtime");
    let topic = TopicName::new("bench").expect("a good name");
    let frame = Payload::encode("bench", Priority(0), "\"\"", "00000000").len();
    let msg = format!("\"{}\"", "x".repeat(EVENT_BYTES - frame));
    let payload = Payload::encode("bench", Priority(0), &msg, "00000000");
    for events in EVENTS {
        let storage = open();
        storage.recover(&mut Nothing).expect("an empty storage");
        let mut group = c.benchmark_group(format!("commit on this disk/{}/{durability}", storage.kind()));
        group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        group.throughput(Throughput::Elements(events));
        let next = Cell::new(1);
        group.bench_function(BenchmarkId::from_parameter(events), |b| {
            b.iter_batched(
                || batch(&topic, &payload, next.replace(next.get() + events), events),
                |batch| {
                    let commit = storage.submit(batch);
                    runtime.block_on(async {
                        commit.written.await.expect("the disk takes it");
                        commit.durable.await.expect("the disk keeps it");
                    });
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
        runtime.block_on(storage.close()).expect("it closes");
    }
}
