//! Sources whose topics are full: the events that fit are published, the others are set aside and follow exactly once, despite kills, on every storage.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, TestBroker, TestPublisher};

/// The number of events in the feed. All but every fourth go to the small topic.
const EVENTS: u64 = 800;

/// A feed that sends everything after the `Last-Event-ID` at once, and then keeps the connection open.
fn feed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut last = 0;
            for line in BufReader::new(&stream).lines() {
                let line = line.unwrap_or_default().to_ascii_lowercase();
                if let Some(id) = line.strip_prefix("last-event-id: ") {
                    last = id.parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_owned();
            for n in last + 1..=EVENTS {
                answer.push_str(&format!("event: {}\nid: {n}\ndata: {n}\n\n", topic_of(n)));
            }
            let _the_client_has_gone = stream.write_all(answer.as_bytes());
            open.push(stream);
        }
    });
    addr
}

fn topic_of(n: u64) -> &'static str {
    if n.is_multiple_of(4) { "other" } else { "small" }
}

fn numbers(topic: &str) -> Vec<u64> {
    (1..=EVENTS).filter(|n| topic_of(*n) == topic).collect()
}

fn source(feed: SocketAddr) -> String {
    format!("[[sources]]\nkind = \"sse\"\nname = \"feed\"\nurl = \"http://{feed}/\"\ntopic = \"{{event}}\"\n")
}

fn subscribe(broker: &TestBroker) {
    for topic in ["small", "other"] {
        broker.telnet().asks(&format!("sub {topic} all"), &format!("successfully subscribed to topic {topic}"));
    }
}

fn waiting(broker: &TestBroker, topic: &str) -> u64 {
    let topics: serde_json::Value = serde_json::from_str(&broker.telnet().ask("topics")).unwrap();
    let found = topics.as_array().unwrap().iter().find(|one| one["topic"] == topic);
    found.and_then(|one| one["waiting"].as_u64()).unwrap_or_default()
}

fn wait_for(broker: &TestBroker, topic: &str, events: u64) {
    let began = Instant::now();
    while waiting(broker, topic) < events {
        assert!(began.elapsed() < PATIENCE, "{} of {events} in {topic}", waiting(broker, topic));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Takes and acknowledges this many events of the topic.
fn take(broker: &TestBroker, topic: &str, events: usize) -> Vec<u64> {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"prefetch\":100,\"replies\":\"quiet\"}").starts_with("hello"));
    client.asks(&format!("sub {topic} all"), &format!("successfully subscribed to topic {topic}"));
    let mut taken = Vec::new();
    for _ in 0..events {
        let event: serde_json::Value = serde_json::from_str(&client.line()).unwrap();
        taken.push(event["msg"].as_u64().unwrap());
        client.send(&format!("ack {topic} {}", event["id"].as_str().unwrap()));
    }
    // Waits until the broker has processed the acknowledgements. Further events may come before the answer.
    client.send("ping");
    while client.line() != "pong" {}
    taken
}

#[test]
fn a_small_topic_blocks_no_other_and_gets_its_events_once_in_order_despite_kills() {
    for limit in ["max_waiting = 2", "max_waiting_bytes = 130", "max_waiting = 2\noverflow = \"dead-letter\""] {
        for kind in ["json-log", "sled", "sqlite"] {
            let config = format!("[storage]\nkind = \"{kind}\"\n");
            let mut broker = TestBroker::prepare(&config);
            broker.run();
            subscribe(&broker);
            assert!(broker.terminate().success());
            let limited = format!("{config}[topics.small]\n{limit}\n{}", source(feed()));
            std::fs::write(broker.dir().join("herald.toml"), limited).unwrap();
            broker.run();
            wait_for(&broker, "other", EVENTS / 4);
            if limit.contains("dead-letter") {
                // The topic never fills up, and the source keeps up with its feed.
                wait_for(&broker, "small.dead", EVENTS / 4 * 3 - 2);
                continue;
            }
            wait_for(&broker, "small", 2);
            broker.kill();
            broker.run();
            let mut small = take(&broker, "small", 100);
            broker.kill();
            broker.run();
            small.extend(take(&broker, "small", numbers("small").len() - 100));
            assert_eq!(small, numbers("small"), "{kind}, {limit}");
            assert_eq!(take(&broker, "other", numbers("other").len()), numbers("other"), "{kind}, {limit}");
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!((waiting(&broker, "small"), waiting(&broker, "other")), (0, 0), "{kind}, {limit}");
        }
    }
}

#[test]
fn a_remote_publisher_keeps_events_refused_by_a_full_topic_across_its_own_kill() {
    let broker = TestBroker::start("[topics.small]\nmax_waiting = 2\n");
    subscribe(&broker);
    let config = format!("[publish]\nto = \"tcp://{}\"\n{}", broker.addr(), source(feed()));
    let mut publisher = TestPublisher::start(&config);
    wait_for(&broker, "other", EVENTS / 4);
    let began = Instant::now();
    while publisher.cursor().is_none_or(|cursor| cursor != EVENTS.to_string()) {
        assert!(began.elapsed() < PATIENCE, "the cursor does not move past the events set aside");
        std::thread::sleep(Duration::from_millis(20));
    }
    publisher.kill();
    publisher.run();
    let mut small = take(&broker, "small", numbers("small").len());
    small.sort_unstable();
    assert_eq!(small, numbers("small"));
    assert_eq!(take(&broker, "other", numbers("other").len()), numbers("other"));
}
