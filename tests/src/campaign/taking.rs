//! Checks of a broker without load: its figures, the events it delivers, and their order.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::event::{Event, PASSING, Queue};
use super::history::History;
use super::order::Order;
use crate::{PATIENCE, Telnet, TestBroker};

/// The broker's figures for a subscription.
struct Figures {
    connections: u64,
    waiting: u64,
    in_flight: u64,
    delayed: u64,
}

impl Figures {
    fn of(client: &mut Telnet, queue: Queue) -> Self {
        let sides = subscriptions(client, queue.topic);
        let side = sides.iter().find(|side| side["name"] == queue.name);
        let side = side.unwrap_or_else(|| panic!("the subscription {} is gone: {sides:?}", queue.name));
        let figure = |key: &str| side[key].as_u64().unwrap();
        Self {
            connections: figure("connections"),
            waiting: figure("waiting"),
            in_flight: figure("in_flight"),
            delayed: figure("delayed"),
        }
    }
}

fn subscriptions(client: &mut Telnet, topic: &str) -> Vec<serde_json::Value> {
    let line = client.ask(&format!("stats {topic}"));
    let mut stats: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
    match stats["topics"][0]["subscriptions"].take() {
        serde_json::Value::Array(sides) => sides,
        _ => panic!("{line:?}"),
    }
}

/// Creates a durable subscription.
pub(crate) fn subscribe(broker: &TestBroker, queue: Queue, history: &History) {
    let (Queue { topic, name }, mut client) = (queue, broker.telnet());
    client.asks(&format!("sub {topic} {name}"), &format!("successfully subscribed to topic {topic}"));
    client.asks(&format!("detach {topic}"), &format!("detached from topic {topic}"));
    history.subscribed(queue);
}

/// Creates a subscription and removes it; returns the time at which the removal was answered.
pub(crate) fn subscribe_in_passing(broker: &TestBroker) -> Instant {
    let (Queue { topic, name }, mut client) = (PASSING, broker.telnet());
    client.asks(&format!("sub {topic} {name}"), &format!("successfully subscribed to topic {topic}"));
    client.asks(&format!("unsub {topic} {name}"), &format!("successfully unsubscribe from topic {topic}"));
    Instant::now()
}

/// Checks that these durable subscriptions exist and no others, and that each has as many events as its history allows.
pub(crate) fn check_figures(broker: &TestBroker, queues: &[Queue], may_have_come_back: bool, history: &History) {
    let mut client = broker.telnet();
    for queue in queues {
        let figures = Figures::of(&mut client, *queue);
        let unsettled = figures.waiting + figures.in_flight + figures.delayed;
        let (least, most) = history.bounds(*queue);
        if !(least..=most).contains(&unsettled) {
            let name = queue.name;
            history.violation(format!("{name} has {unsettled} events after the start, expected {least} to {most}"));
        }
        let names = subscriptions(&mut client, queue.topic);
        let is_known = |side: &serde_json::Value| {
            let is = |queue: &Queue| side["name"] == queue.name;
            queues.iter().any(is) || (may_have_come_back && is(&PASSING))
        };
        if let Some(side) = names.iter().find(|side| !is_known(side)) {
            history.violation(format!("a removed subscription has reappeared: {side}"));
        }
    }
}

/// Waits until no event is delayed or in flight and all closed connections are detached. A payload still being read could otherwise be
/// delivered to a closed connection.
pub(crate) fn settle(broker: &TestBroker, queue: Queue) {
    let mut client = broker.telnet();
    let began = Instant::now();
    loop {
        let Figures { connections, in_flight, delayed, .. } = Figures::of(&mut client, queue);
        if connections == 0 && delayed == 0 && in_flight == 0 {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{}: {delayed} are delayed, {in_flight} in flight, {connections} attached",
            queue.name
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes up to `most` events one by one from a subscription without publishers, and checks their order.
pub(crate) fn take_in_order(broker: &TestBroker, queue: Queue, history: &History, most: u64) {
    let Queue { topic, name } = queue;
    let mut client = broker.telnet();
    let waiting = Figures::of(&mut client, queue).waiting;
    let mut order = Order::new(queue);
    let session = history.attaching(queue);
    client.asks(&format!("sub {topic} {name}"), &format!("successfully subscribed to topic {topic}"));
    for _ in 0..waiting.min(most) {
        let event = next(&mut client);
        history.delivered(queue, session, &event);
        order.taken(history, &event);
        history.ack_sent(queue, &event.id);
        client.asks(&format!("ack {topic} {}", event.id), &format!("acknowledged from logs ev_id={}", event.id));
        history.ack_answered(queue, &event.id);
    }
    // Events delivered since then are given back when the connection closes.
    history.leaving(session);
}

/// The next event.
fn next(client: &mut Telnet) -> Event {
    loop {
        let line = client.line();
        // Sent while all waiting events are delayed.
        if line != "no available message" {
            return Event::parse(&line).unwrap_or_else(|| panic!("{line:?}"));
        }
    }
}

/// Takes all remaining events and returns their ids.
pub(crate) fn drain(broker: &TestBroker, queue: Queue, history: &History, prefetch: u16) -> HashSet<String> {
    settle(broker, queue);
    let Queue { topic, name } = queue;
    let mut client = broker.telnet();
    let waiting = Figures::of(&mut client, queue).waiting;
    assert!(client.ask(&format!("hello {{\"prefetch\":{prefetch}}}")).starts_with("hello {"));
    let session = history.attaching(queue);
    client.asks(&format!("sub {topic} {name}"), &format!("successfully subscribed to topic {topic}"));
    let mut drained = HashSet::new();
    let mut answered = 0;
    while answered < waiting {
        let line = client.line();
        if let Some(id) = line.strip_prefix("acknowledged from logs ev_id=") {
            history.ack_answered(queue, id);
            answered += 1;
        } else if line != "no available message" {
            let event = Event::parse(&line).unwrap_or_else(|| panic!("{line:?}"));
            history.delivered(queue, session, &event);
            history.ack_sent(queue, &event.id);
            client.send(&format!("ack {topic} {}", event.id));
            drained.insert(event.id);
        }
    }
    history.leaving(session);
    if drained.len() as u64 != waiting {
        history.violation(format!("{name}: {waiting} events waited, but {} came", drained.len()));
    }
    let mut other = broker.telnet();
    let Figures { waiting, in_flight, delayed, .. } = Figures::of(&mut other, queue);
    if waiting + in_flight + delayed > 0 {
        history.violation(format!(
            "{name} is drained, but has {waiting} waiting, {in_flight} in flight, {delayed} delayed"
        ));
    }
    drained
}
