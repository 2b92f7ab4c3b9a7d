//! Measures the time that parser, encoder, queue and session take on this machine, to compare two ways of doing the same thing.
//!
//! ```text
//! cargo bench -p broker-core
//! cargo bench -p broker-core -- --save-baseline before         then change something, and
//! cargo bench -p broker-core -- queue --baseline before
//! ```
//!
//! These times vary too much to show whether a change made something slightly slower. `.ci/instructions` counts instructions for that.

use std::hint::black_box;
use std::sync::Arc;

use broker_core::engine::{Delivery, Gauge, LinkEvent, Outcome};
use broker_core::event::{Millis, NewEvent, Payload, Priority};
use broker_core::name::{IdKey, SubscriptionName, TopicName};
use broker_core::policy::TopicPolicy;
use broker_core::protocol::command::{CommandWords, parse};
use broker_core::protocol::event::parse_event;
use broker_core::protocol::framer::{Frame, Framer};
use broker_core::queue::{ClientId, ConsumerId, Next, SubscriptionId, Topic};
use broker_core::session::{Session, SessionSettings};
use broker_core::storage::{Level, Mutation, Place};
use bytes::{Buf, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Events in one measurement.
const EVENTS: usize = 1024;

/// The length of an event in bytes, as in `herald bench`.
const EVENT_BYTES: usize = 256;

const TOPIC: &str = "bench";
const NOW: Millis = Millis(1_700_000_000_000);

// ---- Events ----

fn id(n: usize) -> String {
    format!("{n:08}")
}

/// A priority from 0 to 6, spread as if at random.
fn priority(n: usize) -> Priority {
    let spread = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    Priority((spread % 7) as i32)
}

/// A message that makes the whole document `len` bytes long.
fn msg(len: usize) -> String {
    let frame = Payload::encode(TOPIC, Priority(0), "\"\"", &id(0)).len();
    format!("\"{}\"", "x".repeat(len - frame))
}

/// The event `n` as a publisher sends it.
fn json(n: usize, msg: &str) -> String {
    format!("{{\"id\":\"{}\",\"priority\":{},\"msg\":{msg}}}", id(n), priority(n).0)
}

fn event(n: usize, msg: &str) -> NewEvent {
    let (id, priority) = (id(n), priority(n));
    let payload = Payload::encode(TOPIC, priority, msg, &id);
    NewEvent { id: IdKey::of(&id), priority, ttl_ms: 0, delay_ms: 0, payload }
}

fn events() -> Vec<NewEvent> {
    let msg = msg(EVENT_BYTES);
    (0..EVENTS).map(|n| event(n, &msg)).collect()
}

fn publish_lines() -> BytesMut {
    let msg = msg(EVENT_BYTES);
    BytesMut::from((0..EVENTS).map(|n| format!("pub {TOPIC} {}\r\n", json(n, &msg))).collect::<String>().as_str())
}

fn ack_lines() -> BytesMut {
    BytesMut::from((0..EVENTS).map(|n| format!("ack {TOPIC} {}\r\n", id(n))).collect::<String>().as_str())
}

// ---- Lines ----

fn parser(c: &mut Criterion) {
    let mut group = c.benchmark_group("parser");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("lines of 256-byte events", |b| {
        b.iter_batched_ref(
            || (Framer::new(1 << 20), publish_lines()),
            |(framer, input)| {
                framer.push(input);
                while let Some(Frame::Line(line)) = framer.next_frame() {
                    black_box(line);
                }
            },
            BatchSize::SmallInput,
        );
    });

    let words = CommandWords::default();
    group.throughput(Throughput::Elements(1));
    let publish = format!("pub {TOPIC} {}", json(1, &msg(EVENT_BYTES)));
    let acknowledge = format!("ack {TOPIC} {}", id(1));
    for (name, line) in [("pub", &publish), ("ack", &acknowledge)] {
        let mut last = None;
        group.bench_function(BenchmarkId::new("command", name), |b| {
            b.iter(|| parse(black_box(line), &words, &mut last).is_ok());
        });
    }
    for len in [EVENT_BYTES, 4096, 65_536] {
        let json = json(1, &msg(len));
        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_function(BenchmarkId::new("event", len), |b| b.iter(|| parse_event(TOPIC, black_box(&json))));
    }
    let nested = json(1, &format!("{{\"a\":[{}1]}}", "{\"b\":\"c\"},".repeat(EVENT_BYTES / 10)));
    group.throughput(Throughput::Bytes(nested.len() as u64));
    group.bench_function(BenchmarkId::new("event", "of many objects"), |b| {
        b.iter(|| parse_event(TOPIC, black_box(&nested)));
    });
    group.finish();
}

// ---- Encoding ----

fn encoder(c: &mut Criterion) {
    let mut group = c.benchmark_group("encoder");
    for len in [EVENT_BYTES, 4096] {
        let (msg, id) = (msg(len), id(1));
        let payload = Payload::encode(TOPIC, Priority(3), &msg, &id);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(BenchmarkId::new("encode", len), |b| {
            b.iter(|| Payload::encode(TOPIC, Priority(3), black_box(&msg), &id));
        });
        let mut out = BytesMut::with_capacity(2 * len);
        for (name, redelivered) in [("write", 0), ("write again", 2)] {
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| {
                    out.clear();
                    black_box(&payload).write(redelivered, &mut out);
                });
            });
        }
    }
    group.finish();
}

// ---- The queue ----

struct Queue {
    topic: Topic,
    sub: SubscriptionId,
    consumer: ConsumerId,
    mutations: Vec<Mutation>,
}

impl Queue {
    /// A queue with one durable subscription and one consumer.
    fn new(prefetch: usize) -> Self {
        let mut topic = Topic::new(TopicName::new(TOPIC).expect("a good name"), TopicPolicy::default());
        let (sub, _stored) = topic.subscribe(SubscriptionName::new("inbox").ok());
        let consumer = topic.attach(sub, ClientId(1), prefetch as u16);
        Self { topic, sub, consumer, mutations: Vec::new() }
    }

    fn with(prefetch: usize, events: &[NewEvent]) -> Self {
        let mut queue = Self::new(prefetch);
        queue.publish(events);
        queue
    }

    /// Publishes events as one turn, and makes them stored and visible.
    fn publish(&mut self, events: &[NewEvent]) {
        for event in events {
            let publication = self.topic.publish(event, NOW).expect("there is no limit");
            let stored = publication.stored.expect("there is a subscription");
            let key = stored.key;
            self.mutations.push(Mutation::Publish(stored));
            self.topic.set_place(key, Place(key.seq.0));
            self.topic.set_visible(key.seq);
        }
        self.end_turn();
    }

    fn deliver(&mut self) -> usize {
        let mut count = 0;
        while let Next::Delivery { payload, .. } = self.topic.next(self.sub, NOW, |_| true) {
            black_box(payload);
            count += 1;
        }
        count
    }

    fn end_turn(&mut self) {
        self.topic.drain_changes(&mut self.mutations);
        black_box(&self.mutations);
        self.mutations.clear();
    }
}

fn queue(c: &mut Criterion) {
    let events = events();
    let mut group = c.benchmark_group("queue");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("publish", |b| {
        b.iter_batched_ref(|| Queue::new(1), |queue| queue.publish(&events), BatchSize::SmallInput);
    });
    group.bench_function("next", |b| {
        b.iter_batched_ref(|| Queue::with(EVENTS, &events), Queue::deliver, BatchSize::SmallInput);
    });
    let in_flight = || {
        let mut queue = Queue::with(EVENTS, &events);
        assert_eq!(queue.deliver(), EVENTS);
        queue
    };
    group.bench_function("ack", |b| {
        b.iter_batched_ref(
            in_flight,
            |queue| {
                for event in &events {
                    black_box(queue.topic.acknowledge(queue.sub, queue.consumer, event.id));
                }
                queue.end_turn();
            },
            BatchSize::SmallInput,
        );
    });

    // The cost of one event in a backlog of a given length, which is the same before and after.
    group.throughput(Throughput::Elements(1));
    let msg = msg(EVENT_BYTES);
    for waiting in [0, 1000, 100_000] {
        let backlog: Vec<NewEvent> = (0..waiting).map(|n| event(n, &msg)).collect();
        let mut queue = Queue::with(1, &backlog);
        drop(backlog);
        let mut n = waiting;
        group.bench_function(BenchmarkId::new("publish, next and ack, so many waiting", waiting), |b| {
            b.iter_batched(
                || {
                    n += 1;
                    event(n, &msg)
                },
                |event| {
                    queue.publish(std::slice::from_ref(&event));
                    let next = queue.topic.next(queue.sub, NOW, |_| true);
                    let Next::Delivery { payload, .. } = next else { panic!("an event waits") };
                    queue.topic.acknowledge(queue.sub, queue.consumer, IdKey::of(&payload.id()));
                    queue.end_turn();
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

// ---- Sessions ----

struct Client {
    session: Session,
    gauge: Arc<Gauge>,
}

impl Client {
    /// A client that asks for confirmations.
    fn new() -> Self {
        let gauge = Arc::new(Gauge::default());
        let session = Session::new(Arc::new(SessionSettings::default()), Level::Synced, Arc::clone(&gauge));
        let mut client = Self { session, gauge };
        client.session.input(&mut BytesMut::from("hello {\"confirm\":true,\"prefetch\":1024}\r\n"));
        drop(client.session.take_requests());
        client.written();
        client
    }

    /// A client that has published and has no answer yet, with the answers.
    fn asking() -> (Self, LinkEvent) {
        let mut client = Self::new();
        client.session.input(&mut publish_lines());
        let requests = client.session.take_requests();
        let published = |slot| (slot, Outcome::Published { replaced: false });
        let outcomes = requests.iter().map(|request| published(request.slot)).collect();
        (client, LinkEvent::Outcomes(outcomes))
    }

    /// A client with deliveries on their way to it.
    fn receiving(deliveries: &[Delivery]) -> (Self, LinkEvent) {
        let client = Self::new();
        client.gauge.add(deliveries.iter().map(Delivery::cost).sum());
        (client, LinkEvent::Deliveries(deliveries.to_vec()))
    }

    fn written(&mut self) {
        let output = self.session.output();
        output.advance(black_box(output.remaining()));
        self.session.output_written();
    }
}

fn session(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, lines) in [("pub lines to requests", publish_lines()), ("ack lines to requests", ack_lines())] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || (Client::new(), lines.clone()),
                |(client, input)| {
                    client.session.input(input);
                    client.session.take_requests()
                },
                BatchSize::SmallInput,
            );
        });
    }
    let take = |(mut client, event): (Client, LinkEvent)| {
        client.session.event(event);
        client.written();
        client
    };
    group.bench_function("outcomes to confirmations", |b| b.iter_batched(Client::asking, take, BatchSize::SmallInput));
    let deliver = |event: NewEvent| Delivery { payload: event.payload, redelivered: 0 };
    let deliveries: Vec<Delivery> = events().into_iter().map(deliver).collect();
    group.bench_function("deliveries to bytes", |b| {
        b.iter_batched(|| Client::receiving(&deliveries), take, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, parser, encoder, queue, session);
criterion_main!(benches);
