//! An SSE feed that misbehaves, read into a broker that is killed at random moments: every event arrives, once.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, TestBroker};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Events that the feed has in all.
const EVENTS: u64 = 20_000;

/// What the feed has seen of its clients.
#[derive(Default)]
struct Seen {
    connections: AtomicU64,
    resumed_at: Mutex<Vec<u64>>,
}

/// A feed whose event n has the id n. It drops connections in the middle of lines, answers 503 now and then, ends streams in an
/// orderly way, and sends comments and events without data in between.
fn feed(seen: Arc<Seen>, seed: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut rng = StdRng::seed_from_u64(seed);
        for stream in listener.incoming() {
            let (seen, seed) = (Arc::clone(&seen), rng.random());
            std::thread::spawn(move || {
                let _the_client_has_gone = serve(&stream.unwrap(), &seen, seed);
            });
        }
    });
    addr
}

fn serve(stream: &TcpStream, seen: &Seen, seed: u64) -> std::io::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut last_id = 0;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Some(id) = line.to_ascii_lowercase().strip_prefix("last-event-id: ") {
            last_id = id.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut out = stream;
    let number = seen.connections.fetch_add(1, Ordering::SeqCst);
    seen.resumed_at.lock().unwrap().push(last_id);
    if number % 7 == 3 {
        return out.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
    }
    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\xef\xbb\xbfretry: 1\n\n")?;
    // How far this connection gets.
    let end = if last_id == EVENTS { u64::MAX } else { last_id + rng.random_range(1..1500) };
    for id in last_id + 1..=EVENTS.min(end) {
        let line_end = ["\n", "\r\n", "\r"][rng.random_range(0..3)];
        let event = format!("id: {id}{line_end}data: {{\"n\":{id}}}{line_end}{line_end}");
        if id == end {
            return out.write_all(&event.as_bytes()[..event.len() / 2]);
        }
        out.write_all(event.as_bytes())?;
        if rng.random_range(0..50) == 0 {
            out.write_all(b": still here\n\nevent: nothing\n\n")?;
        }
        if rng.random_range(0..20) == 0 {
            // So that the kills fall into the middle of it.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // All is said; the stream stays open.
    loop {
        std::thread::sleep(Duration::from_millis(200));
        out.write_all(b":\n")?;
    }
}

#[test]
fn every_event_of_a_feed_that_misbehaves_arrives_once_whatever_is_killed() {
    let seen = Arc::new(Seen::default());
    let addr = feed(Arc::clone(&seen), 7);
    let config = format!(
        "[[sources]]\nkind = \"sse\"\nname = \"numbers\"\nurl = \"http://{addr}/\"\ntopic = \"numbers\"\nmsg = \"/n\"\n"
    );
    // The subscription is there before the source reads anything.
    let mut broker = TestBroker::prepare("");
    broker.run();
    broker.telnet().asks("sub numbers all", "successfully subscribed to topic numbers");
    assert!(broker.terminate().success());
    std::fs::write(broker.dir().join("herald.toml"), config).unwrap();

    let mut rng = StdRng::seed_from_u64(11);
    let began = Instant::now();
    let mut kills = 0;
    broker.run();
    loop {
        std::thread::sleep(Duration::from_millis(rng.random_range(20..300)));
        let topics: serde_json::Value = serde_json::from_str(&broker.telnet().ask("topics")).unwrap();
        let waiting = topics.as_array().unwrap().iter().find(|topic| topic["topic"] == "numbers").unwrap()["waiting"]
            .as_u64()
            .unwrap();
        if waiting >= EVENTS {
            assert_eq!(waiting, EVENTS, "an event was stored twice");
            break;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "{waiting} of {EVENTS} after {kills} kills");
        broker.kill();
        kills += 1;
        broker.run();
    }
    assert!(kills > 3, "the feed was read before anything was killed");
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"prefetch\":1000,\"replies\":\"quiet\"}").starts_with("hello"));
    client.asks("sub numbers all", "successfully subscribed to topic numbers");
    let mut times: HashMap<u64, u32> = HashMap::new();
    for n in 1..=EVENTS {
        let event: serde_json::Value = serde_json::from_str(&client.line()).unwrap();
        let number = event["msg"].as_u64().unwrap();
        assert_eq!(event["id"], number.to_string(), "the id is that of the feed");
        assert_eq!(number, n, "the order is that of the feed");
        *times.entry(number).or_default() += 1;
        client.send(&format!("ack numbers {number}"));
    }
    assert!(times.len() as u64 == EVENTS && times.values().all(|times| *times == 1));
    client.nothing();
    let resumed = seen.resumed_at.lock().unwrap();
    assert!(resumed.iter().filter(|id| **id > 0).count() > 5, "{resumed:?}");
}

#[test]
fn a_source_that_is_refused_stops_with_a_clear_state_and_the_broker_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let _head = BufReader::new(&stream).read_line(&mut line);
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let broker = TestBroker::start(&format!(
        "[[sources]]\nkind = \"sse\"\nname = \"secret\"\nurl = \"http://user:password@{addr}/feed?key=hidden\"\ntopic = \"t\"\n"
    ));
    let line = broker.wait_for_log("a source has stopped");
    assert!(line.contains("secret") && line.contains("403"), "{line}");
    assert!(!broker.log().contains("password") && !broker.log().contains("hidden"), "{}", broker.log());
    broker.telnet().asks("ping", "pong");
}
