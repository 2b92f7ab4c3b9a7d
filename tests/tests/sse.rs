//! An SSE feed that misbehaves, read into a broker that is killed at random moments: every event arrives, once.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use herald_tests::{NumberFeed, PATIENCE, TestBroker};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Events that the feed has in all.
const EVENTS: u64 = 20_000;

#[test]
fn every_event_of_a_feed_that_misbehaves_arrives_once_whatever_is_killed() {
    let feed = NumberFeed::start(EVENTS, 7);
    let addr = feed.addr();
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
    let resumed = feed.resumed_at();
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
