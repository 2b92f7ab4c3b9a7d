//! Consumers that acknowledge most events, give some back, keep some, and go away now and then.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, Telnet, TestBroker};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::History;
use crate::{Event, event};

pub(crate) struct Behaviour {
    pub(crate) addr: SocketAddr,
    pub(crate) name: &'static str,
    pub(crate) prefetch: u16,
    pub(crate) seed: u64,
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
    history.attaching(name);
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
            history.delivered(name, &event);
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
                    // Some are over before the broker is there again, some are not.
                    let delay =
                        if rng.random_range(0..3) > 0 { rng.random_range(10..80) } else { rng.random_range(500..2500) };
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

/// Takes up to `most` events one by one from a subscription that nobody publishes to, and checks their order.
pub(crate) fn take_in_order(broker: &TestBroker, name: &'static str, history: &History, most: u64) {
    let mut client = broker.telnet();
    let waiting = figures(&mut client, name)["waiting"].as_u64().unwrap();
    let mut order = history.order(name);
    history.attaching(name);
    client.asks(&format!("sub t {name}"), "successfully subscribed to topic t");
    for _ in 0..waiting.min(most) {
        let event = next(&mut client);
        history.delivered(name, &event);
        history.taken(&mut order, &event);
        history.ack_sent(name, &event.id);
        client.asks(&format!("ack t {}", event.id), &format!("acknowledged from logs ev_id={}", event.id));
        history.ack_answered(name, &event.id);
    }
    // What has been delivered meanwhile goes back with the connection.
}

/// The next event.
fn next(client: &mut Telnet) -> Event {
    loop {
        let line = client.line();
        // Where all that waits is delayed for a moment.
        if line != "no available message" {
            return event(&line).unwrap_or_else(|| panic!("{line:?}"));
        }
    }
}

/// Takes everything that is left.
pub(crate) fn drain(broker: &TestBroker, name: &'static str, history: &History) -> HashSet<String> {
    settle(broker, name);
    let mut client = broker.telnet();
    let waiting = figures(&mut client, name)["waiting"].as_u64().unwrap();
    assert!(client.ask("hello {\"prefetch\":500}").starts_with("hello {"));
    history.attaching(name);
    client.asks(&format!("sub t {name}"), "successfully subscribed to topic t");
    let mut drained = HashSet::new();
    let mut answered = 0;
    while answered < waiting {
        let line = client.line();
        if let Some(id) = line.strip_prefix("acknowledged from logs ev_id=") {
            history.ack_answered(name, id);
            answered += 1;
        } else if line != "no available message" {
            let event = event(&line).unwrap_or_else(|| panic!("{line:?}"));
            history.delivered(name, &event);
            history.ack_sent(name, &event.id);
            client.send(&format!("ack t {}", event.id));
            drained.insert(event.id);
        }
    }
    assert_eq!(drained.len() as u64, waiting, "{name}: what waited came, each once");
    let mut other = broker.telnet();
    let side = figures(&mut other, name);
    for key in ["waiting", "in_flight", "delayed"] {
        assert_eq!(side[key], 0, "{name} is drained: {side}");
    }
    drained
}

/// What the broker says of a subscription.
fn figures(client: &mut Telnet, name: &str) -> serde_json::Value {
    let line = client.ask("stats t");
    let stats: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
    let sides = stats["topics"][0]["subscriptions"].as_array().unwrap_or_else(|| panic!("{line:?}"));
    sides.iter().find(|side| side["name"] == name).unwrap_or_else(|| panic!("{line:?}")).clone()
}

/// Waits until nothing is delayed any more, and what connections that have gone had in flight is back.
pub(crate) fn settle(broker: &TestBroker, name: &str) {
    let mut client = broker.telnet();
    let began = Instant::now();
    loop {
        let side = figures(&mut client, name);
        if side["delayed"] == 0 && side["in_flight"] == 0 {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{side}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
