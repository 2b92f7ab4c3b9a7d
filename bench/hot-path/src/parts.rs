//! Parser, encoder, sessions and queue, each by itself.

use std::hint::black_box;
use std::sync::Arc;

use broker_core::engine::{Delivery, Found, Gauge, LinkEvent, Outcome, Request, Slot};
use broker_core::event::{NewEvent, Payload};
use broker_core::name::{IdKey, SubscriptionName, TopicName};
use broker_core::policy::TopicPolicy;
use broker_core::protocol::command::{Command, CommandWords, parse};
use broker_core::protocol::event::parse_event;
use broker_core::protocol::framer::{Frame, Framer};
use broker_core::queue::{Acknowledged, ClientId, ConsumerId, Next, SubscriptionId, Topic};
use broker_core::session::{Session, SessionSettings};
use broker_core::storage::{Level, Mutation, Place};
use bytes::{Buf, BytesMut};

use crate::events::{self, NOW};
use crate::{BATCH, EVENTS};

/// The number of events in flight.
const WINDOW: usize = 256;

/// Runs all phases in this module and returns their names.
pub(crate) fn run() -> Vec<&'static str> {
    lines();
    encoding();
    session();
    queue();
    vec![
        "frame",
        "parse",
        "encode",
        "session-pub",
        "session-confirm",
        "session-deliver",
        "session-ack",
        "publish",
        "deliver",
        "ack",
    ]
}

fn batches() -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..EVENTS).step_by(BATCH).map(|first| first..first + BATCH)
}

// ---- Lines ----

fn lines() {
    let words = CommandWords::default();
    let mut framer = Framer::new(1 << 20);
    let mut topic = None;
    for batch in batches() {
        let mut input = events::publish_lines(batch);
        let lines: Vec<String> = String::from_utf8_lossy(&input).lines().map(str::to_owned).collect();
        assert_eq!(count_frame(&mut framer, &mut input), BATCH);
        let events = count_parse(&lines, &words, &mut topic);
        assert_eq!(events.len(), BATCH);
    }
}

#[inline(never)]
fn count_frame(framer: &mut Framer, input: &mut BytesMut) -> usize {
    let mut lines = 0;
    framer.push(input);
    while let Some(Frame::Line(line)) = framer.next_frame() {
        black_box(line);
        lines += 1;
    }
    lines
}

#[inline(never)]
fn count_parse(lines: &[String], words: &CommandWords, topic: &mut Option<TopicName>) -> Vec<NewEvent> {
    let mut events = Vec::with_capacity(BATCH);
    for line in lines {
        let Ok(Command::Publish { topic, event }) = parse(line, words, topic) else { continue };
        events.extend(parse_event(topic.as_str(), event));
    }
    events
}

// ---- Encoding ----

fn encoding() {
    let (topic, msg) = (events::topic(), events::msg());
    for batch in batches() {
        let ids: Vec<String> = batch.clone().map(events::id).collect();
        assert_eq!(count_encode(&topic, batch.start, &msg, &ids).len(), BATCH);
    }
}

#[inline(never)]
fn count_encode(topic: &TopicName, first: usize, msg: &str, ids: &[String]) -> Vec<Payload> {
    let encode = |(n, id): (usize, &String)| Payload::encode(topic.as_str(), events::priority(first + n), msg, id);
    ids.iter().enumerate().map(encode).collect()
}

// ---- Sessions ----

fn session() {
    let gauge = Arc::new(Gauge::default());
    let mut session = Session::new(Arc::new(SessionSettings::default()), Level::Synced, Arc::clone(&gauge));
    session.input(&mut BytesMut::from("hello {\"confirm\":true,\"prefetch\":256}\r\n"));
    drop(session.take_requests());
    take_output(&mut session);
    let msg = events::msg();
    for batch in batches() {
        let requests = count_session_pub(&mut session, &mut events::publish_lines(batch.clone()));
        assert_eq!(requests.len(), BATCH);
        let outcomes = outcomes(&requests, || Outcome::Published { replaced: false });
        assert!(count_session_confirm(&mut session, outcomes) > 20 * BATCH);

        let deliver = |n| Delivery { payload: events::event(n, &msg).payload, redelivered: 0 };
        let deliveries: Vec<Delivery> = batch.clone().map(deliver).collect();
        gauge.add(deliveries.iter().map(Delivery::cost).sum());
        assert!(count_session_deliver(&mut session, deliveries) > 200 * BATCH);

        let (count, requests) = count_session_ack(&mut session, &mut events::ack_lines(batch.map(events::id)));
        assert_eq!(count, BATCH);
        let acknowledged = || Outcome::Acknowledged { found: vec![Found::Settled], idle: false };
        session.event(LinkEvent::Outcomes(outcomes_of(&requests, acknowledged)));
        take_output(&mut session);
    }
}

fn outcomes(requests: &[Request], outcome: impl Fn() -> Outcome) -> LinkEvent {
    LinkEvent::Outcomes(outcomes_of(requests, outcome))
}

fn outcomes_of(requests: &[Request], outcome: impl Fn() -> Outcome) -> Vec<(Slot, Outcome)> {
    requests.iter().map(|request| (request.slot, outcome())).collect()
}

/// Consumes a session's output as if it had been written, and returns its length in bytes.
fn take_output(session: &mut Session) -> usize {
    let output = session.output();
    let bytes = output.remaining();
    output.advance(black_box(bytes));
    session.output_written();
    bytes
}

#[inline(never)]
fn count_session_pub(session: &mut Session, input: &mut BytesMut) -> Vec<Request> {
    session.input(input);
    session.take_requests()
}

#[inline(never)]
fn count_session_confirm(session: &mut Session, outcomes: LinkEvent) -> usize {
    session.event(outcomes);
    take_output(session)
}

#[inline(never)]
fn count_session_deliver(session: &mut Session, deliveries: Vec<Delivery>) -> usize {
    session.event(LinkEvent::Deliveries(deliveries));
    take_output(session)
}

/// Returns a different value than [`count_session_pub`], because the compiler merges identical functions.
#[inline(never)]
fn count_session_ack(session: &mut Session, input: &mut BytesMut) -> (usize, Vec<Request>) {
    session.input(input);
    let requests = session.take_requests();
    (requests.len(), requests)
}

// ---- The queue ----

/// Publishes all events before the first delivery, so that the queue holds a backlog of several thousand.
fn queue() {
    let mut topic = Topic::new(events::topic(), TopicPolicy::default());
    let (sub, _stored) = topic.subscribe(SubscriptionName::new("inbox").ok());
    let consumer = topic.attach(sub, ClientId(1), WINDOW as u16);
    let msg = events::msg();
    let mut mutations = Vec::new();
    for batch in batches() {
        let events: Vec<NewEvent> = batch.clone().map(|n| events::event(n, &msg)).collect();
        count_publish(&mut topic, &events, batch.start, &mut mutations);
        assert_eq!(mutations.len(), BATCH);
        mutations.clear();
    }
    for _ in 0..EVENTS / WINDOW {
        let payloads = count_deliver(&mut topic, sub);
        assert_eq!(payloads.len(), WINDOW);
        for payloads in payloads.chunks(BATCH) {
            let ids: Vec<IdKey> = payloads.iter().map(|payload| IdKey::of(&payload.id())).collect();
            assert_eq!(count_ack(&mut topic, sub, consumer, &ids, &mut mutations), BATCH);
            // One records the settled events, and one removes each event that no subscription needs any more.
            assert_eq!(mutations.len(), 1 + BATCH);
            mutations.clear();
        }
    }
}

#[inline(never)]
fn count_publish(topic: &mut Topic, events: &[NewEvent], first: usize, mutations: &mut Vec<Mutation>) {
    let mut keys = [None; BATCH];
    for (key, event) in keys.iter_mut().zip(events) {
        let Ok(publication) = topic.publish(event, NOW) else { continue };
        let Some(stored) = publication.stored else { continue };
        *key = Some(stored.key);
        mutations.push(Mutation::Publish(stored));
    }
    topic.drain_changes(mutations);
    for (n, key) in keys.into_iter().flatten().enumerate() {
        topic.set_place(key, Place((first + n) as u64));
        topic.set_visible(key.seq);
    }
}

#[inline(never)]
fn count_deliver(topic: &mut Topic, sub: SubscriptionId) -> Vec<Payload> {
    let mut payloads = Vec::with_capacity(WINDOW);
    while let Next::Delivery { payload, .. } = topic.next(sub, NOW, |_| true) {
        payloads.push(payload);
    }
    payloads
}

#[inline(never)]
fn count_ack(
    topic: &mut Topic,
    sub: SubscriptionId,
    consumer: ConsumerId,
    ids: &[IdKey],
    mutations: &mut Vec<Mutation>,
) -> usize {
    let settled = ids.iter().filter(|id| topic.acknowledge(sub, consumer, **id) == Acknowledged::InFlight).count();
    topic.drain_changes(mutations);
    settled
}
