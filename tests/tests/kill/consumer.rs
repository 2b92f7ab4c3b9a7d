//! Consumers that acknowledge most events, give some back, keep some, and go away now and then.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use herald_tests::{Telnet, TestBroker};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::History;

pub(crate) struct Behaviour {
    pub(crate) addr: SocketAddr,
    pub(crate) name: &'static str,
    pub(crate) prefetch: u16,
    pub(crate) seed: u64,
}

struct Event {
    id: String,
    priority: i64,
    redelivered: u64,
}

fn event(line: &str) -> Option<Event> {
    let json: serde_json::Value = serde_json::from_str(line).ok()?;
    let json = json.as_object()?;
    Some(Event {
        id: json["id"].as_str()?.to_owned(),
        priority: json["priority"].as_i64()?,
        redelivered: json.get("redelivered").and_then(serde_json::Value::as_u64).unwrap_or(0),
    })
}

/// Consumes until the broker is gone, over as many connections as it takes.
pub(crate) fn consume(behaviour: &Behaviour, history: &History, stop: &AtomicBool) {
    let mut rng = StdRng::seed_from_u64(behaviour.seed);
    while !stop.load(Ordering::SeqCst) {
        let Ok(stream) = TcpStream::connect(behaviour.addr) else { return };
        if session(behaviour, history, &mut rng, &stream).is_none() {
            return;
        }
    }
}

/// One connection. `None`: the broker has gone; else it is the consumer that went.
fn session(behaviour: &Behaviour, history: &History, rng: &mut StdRng, stream: &TcpStream) -> Option<()> {
    let Behaviour { name, prefetch, .. } = behaviour;
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut out = stream;
    let mut reader = BufReader::new(stream);
    write!(out, "hello {{\"prefetch\":{prefetch}}}\nsub t {name}\n").ok()?;
    // For each event that was given back: when it was, and for how long.
    let mut given_back: HashMap<String, Instant> = HashMap::new();
    let mut line = String::new();
    loop {
        match reader.read_line(&mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                // A part of a line may have been read already; it stays. What is answered until the kill counts.
                continue;
            }
            Err(_) => return None,
        }
        let text = line.trim_end().to_owned();
        line.clear();
        if let Some(event) = event(&text) {
            history.delivered(name, &event.id, event.redelivered);
            let id = event.id;
            match rng.random_range(0..1000) {
                0..850 => {
                    history.ack_sent(name, &id);
                    writeln!(out, "ack t {id}").ok()?;
                }
                850..930 => {
                    given_back.insert(id.clone(), Instant::now());
                    writeln!(out, "nack t {id}").ok()?;
                }
                930..980 => {
                    let delay = rng.random_range(10..80);
                    let due = Instant::now() + Duration::from_millis(delay);
                    given_back.insert(id.clone(), due);
                    history.delay_sent(name, &id, due);
                    writeln!(out, "nack t {id} {delay}").ok()?;
                }
                980..995 => {}
                // Gone, with what it has in flight and in its socket.
                _ => return Some(()),
            }
        } else if let Some(id) = text.strip_prefix("acknowledged from logs ev_id=") {
            history.ack_answered(name, id);
        } else if let Some(id) = text.strip_prefix("requeued ev_id=") {
            match given_back.remove(id) {
                Some(due) => history.requeued(name, id, due),
                None => history.violation(format!("{name}: {text:?} without a nack")),
            }
        } else if ![
            "no available message",
            "Successfully connected to message_broker",
            "successfully subscribed to topic t",
        ]
        .contains(&text.as_str())
            && !text.starts_with("hello ")
        {
            history.violation(format!("{name}: {text:?}"));
        }
    }
}

/// Takes up to `most` events one by one from a subscription that nobody publishes to, and checks their order: the most urgent
/// first, and among equals each publisher's in its order.
pub(crate) fn take_in_order(broker: &TestBroker, name: &'static str, history: &History, most: usize) {
    let mut client = broker.telnet();
    let began = Instant::now();
    client.asks(&format!("sub t {name}"), "successfully subscribed to topic t");
    let mut previous: Option<i64> = None;
    let mut last_of: HashMap<(i64, String), String> = HashMap::new();
    for _ in 0..most {
        let Some(event) = next(&mut client) else { return };
        let delayed = history.may_be_delayed(name, &event.id, began);
        history.delivered(name, &event.id, event.redelivered);
        if !delayed {
            if previous.is_some_and(|previous| previous < event.priority) {
                history.violation(format!(
                    "{name}: {} of priority {} came after a less urgent one",
                    event.id, event.priority
                ));
            }
            previous = Some(event.priority);
        }
        if !delayed && !history.was_retried(&event.id) {
            let publisher = event.id.split('-').next().unwrap_or_default().to_owned();
            let last = last_of.insert((event.priority, publisher), event.id.clone());
            if last.as_ref().is_some_and(|last| *last >= event.id) {
                history.violation(format!("{name}: {} came after {last:?}", event.id));
            }
        }
        history.ack_sent(name, &event.id);
        client.asks(&format!("ack t {}", event.id), &format!("acknowledged from logs ev_id={}", event.id));
        history.ack_answered(name, &event.id);
    }
    // What has been delivered meanwhile goes back with the connection.
}

/// The next event, or `None` if there is none.
fn next(client: &mut Telnet) -> Option<Event> {
    client.send("ping");
    let mut found = None;
    loop {
        let line = client.line();
        match line.as_str() {
            "pong" => return found,
            "no available message" => {}
            _ => found = Some(event(&line).unwrap_or_else(|| panic!("{line:?}"))),
        }
    }
}

/// Takes everything that is left.
pub(crate) fn drain(broker: &TestBroker, name: &'static str, history: &History) -> HashSet<String> {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"prefetch\":500}").starts_with("hello {"));
    client.asks(&format!("sub t {name}"), "successfully subscribed to topic t");
    let mut drained = HashSet::new();
    loop {
        client.send("ping");
        let mut batch = Vec::new();
        loop {
            let line = client.line();
            match line.as_str() {
                "pong" => break,
                "no available message" => {}
                _ => batch.push(event(&line).unwrap_or_else(|| panic!("{line:?}"))),
            }
        }
        if batch.is_empty() {
            break;
        }
        client.send(&batch.iter().fold("ack t".to_owned(), |ack, event| ack + " " + &event.id));
        for event in batch {
            history.delivered(name, &event.id, event.redelivered);
            assert_eq!(client.line(), format!("acknowledged from logs ev_id={}", event.id));
            history.ack_answered(name, &event.id);
            drained.insert(event.id);
        }
    }
    let line = client.ask("stats t");
    let stats: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
    let sides = stats["topics"][0]["subscriptions"].as_array().unwrap_or_else(|| panic!("{line:?}"));
    let side = sides.iter().find(|side| side["name"] == name).unwrap_or_else(|| panic!("{line:?}"));
    for key in ["waiting", "in_flight", "delayed"] {
        assert_eq!(side[key], 0, "{name} is drained: {side}");
    }
    drained
}
