//! An SSE feed that misbehaves, read into a broker that is killed at random moments: every event arrives, once.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use herald_tests::{NumberFeed, PATIENCE, TestBroker};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The number of events in the feed.
const EVENTS: u64 = 20_000;

#[test]
fn every_event_of_a_misbehaving_feed_arrives_once_whatever_is_killed() {
    let feed = NumberFeed::start(EVENTS, 7);
    let addr = feed.addr();
    let config = format!(
        "[[sources]]\nkind = \"sse\"\nname = \"numbers\"\nurl = \"http://{addr}/\"\ntopic = \"numbers\"\nmsg = \"/n\"\n"
    );
    // The subscription exists before the source reads anything.
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
    assert!(kills > 3, "the feed was read before enough kills");
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"prefetch\":1000,\"replies\":\"quiet\"}").starts_with("hello"));
    client.asks("sub numbers all", "successfully subscribed to topic numbers");
    let mut times: HashMap<u64, u32> = HashMap::new();
    for n in 1..=EVENTS {
        let event: serde_json::Value = serde_json::from_str(&client.line()).unwrap();
        let number = event["msg"].as_u64().unwrap();
        assert_eq!(event["id"], number.to_string(), "the id comes from the feed");
        assert_eq!(number, n, "the order is the feed's");
        *times.entry(number).or_default() += 1;
        client.send(&format!("ack numbers {number}"));
    }
    assert!(times.len() as u64 == EVENTS && times.values().all(|times| *times == 1));
    client.nothing();
    let resumed = feed.resumed_at();
    assert!(resumed.iter().filter(|id| **id > 0).count() > 5, "{resumed:?}");
}

#[test]
fn a_refused_source_retries_or_stops_as_configured_and_stats_shows_it() {
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
    let start = |more: &str| {
        TestBroker::start(&format!(
            "[[sources]]\nkind = \"sse\"\nname = \"secret\"\nurl = \"http://user:password@{addr}/feed?key=hidden\"\ntopic = \"t\"\n{more}"
        ))
    };
    for (more, log, state) in [
        ("", "sse stream interrupted, reconnecting", "retrying"),
        ("on_client_error = \"stop\"\n", "a source has stopped", "failed"),
    ] {
        let mut broker = start(more);
        let line = broker.wait_for_log(log);
        assert!(line.contains("403"), "{line}");
        assert!(!broker.log().contains("password") && !broker.log().contains("hidden"), "{}", broker.log());
        let began = Instant::now();
        loop {
            let stats: serde_json::Value = serde_json::from_str(&broker.telnet().ask("stats")).unwrap();
            let source = &stats["sources"][0];
            if source["state"] == state {
                assert!(source["name"] == "secret" && source["error"].as_str().unwrap().contains("403"), "{source}");
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{stats}");
            std::thread::sleep(Duration::from_millis(10));
        }
        broker.telnet().asks("ping", "pong");
        assert!(broker.terminate().success());
    }
}

#[test]
fn a_pointer_that_finds_nothing_is_warned_of_once_and_one_that_does_is_not() {
    let body: String = (0..12).map(|n| format!("data: {{\"a\":{n},\"here\":5}}\n\n")).collect();
    let feed = Scripted::start(Box::leak(vec![&*body.leak(), ""].into_boxed_slice()));
    let broker = TestBroker::start(&format!(
        "[[sources]]\nkind = \"sse\"\nname = \"f\"\nurl = \"http://{}/\"\ntopic = \"t\"\nid = \"/nowhere/~1\"\nmsg = \"/a\"\npriority = \"/here\"\n",
        feed.addr
    ));
    let line = broker.wait_for_log("a JSON pointer has found nothing in any event so far");
    for field in ["source=f", "key=\"id\"", "pointer=/nowhere/~1", "events=10"] {
        assert!(line.contains(field), "{line}");
    }
    assert_eq!(broker.log().matches("a JSON pointer has found nothing").count(), 1, "{}", broker.log());
}

/// A scripted feed: the nth connection receives the nth body and, unless it is the last, is closed.
struct Scripted {
    addr: SocketAddr,
    /// The `Last-Event-ID` of each request.
    asked: Arc<Mutex<Vec<Option<String>>>>,
}

impl Scripted {
    fn start(bodies: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for body in bodies {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines().map(Result::unwrap);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let id = head.iter().find_map(|line| line.strip_prefix("last-event-id: ")).map(str::to_owned);
                requests.lock().unwrap().push(id);
                let response = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{body}");
                stream.write_all(response.as_bytes()).unwrap();
                // A body with `: hold` keeps its connection open, so that the test decides when the next begins.
                if body.contains(": hold") {
                    held.push(stream);
                }
            }
            loop {
                std::thread::park();
            }
        });
        Self { addr, asked }
    }

    fn asked(&self, count: usize) -> Vec<Option<String>> {
        let began = Instant::now();
        loop {
            let asked = self.asked.lock().unwrap().clone();
            if asked.len() >= count {
                return asked;
            }
            assert!(began.elapsed() < PATIENCE, "{asked:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn broker(&self) -> TestBroker {
        let mut broker = TestBroker::prepare("");
        broker.run();
        broker.telnet().asks("sub t all", "successfully subscribed to topic t");
        assert!(broker.terminate().success());
        let source =
            format!("[[sources]]\nkind = \"sse\"\nname = \"s\"\nurl = \"http://{}/\"\ntopic = \"t\"\n", self.addr);
        std::fs::write(broker.dir().join("herald.toml"), source).unwrap();
        broker.run();
        broker
    }
}

fn waiting(broker: &TestBroker) -> u64 {
    let topics: serde_json::Value = serde_json::from_str(&broker.telnet().ask("topics")).unwrap();
    topics.as_array().unwrap().iter().find(|topic| topic["topic"] == "t").unwrap()["waiting"].as_u64().unwrap()
}

fn wait_until_waiting(broker: &TestBroker, count: u64) {
    let began = Instant::now();
    while waiting(broker) != count {
        assert!(began.elapsed() < PATIENCE, "{} of {count}", waiting(broker));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn events_without_ids_get_new_ids_after_a_restart_and_keep_them_in_a_replay() {
    let feed = Scripted::start(&[
        "id: hello\ndata: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n: hold\n\n",
        // Another process reads three other events, which a reconnect then replays with one more.
        "data: 4\n\ndata: 5\n\ndata: 6\n\n",
        "data: 4\n\ndata: 5\n\ndata: 6\n\ndata: 7\n\n: hold\n\n",
    ]);
    let mut broker = feed.broker();
    wait_until_waiting(&broker, 4);
    broker.kill();
    broker.run();
    wait_until_waiting(&broker, 8);
    assert_eq!(feed.asked(3), [None, Some("hello".to_owned()), Some("hello".to_owned())]);
}

#[test]
fn ids_that_restart_at_1_with_each_connection_belong_to_different_events() {
    let feed = Scripted::start(&[
        "id: 1\ndata: a\n\nid: 2\ndata: b\n\n",
        "id: 1\ndata: c\n\nid: 2\ndata: d\n\n: hold\n\n",
        "id: 1\ndata: e\n\nid: 2\ndata: f\n\n: hold\n\n",
    ]);
    let mut broker = feed.broker();
    let warnings = |broker: &TestBroker| broker.log().matches("feed gave an id to other data as well").count();
    wait_until_waiting(&broker, 4);
    assert_eq!(warnings(&broker), 1, "{}", broker.log());
    broker.kill();
    broker.run();
    wait_until_waiting(&broker, 6);
    assert_eq!(warnings(&broker), 0, "the warning is logged once: {}", broker.log());
}

#[test]
fn a_restart_resumes_where_a_reconnect_would() {
    // An id without data, a reset, and an id that no header can carry: each determines where reading resumes.
    let feed = Scripted::start(&[
        "id: 1\ndata: a\n\nid: 2\n\ndata: b\n\nid: 3\n\n: hold\n\n",
        "id: 4\ndata: c\n\nid\n\n: hold\n\n",
        "id: 5\ndata: d\n\nid: \u{1}\ndata: e\n\n: hold\n\n",
        ": hold\n\n",
    ]);
    let mut broker = feed.broker();
    for (events, connections) in [(2, 1), (3, 2), (5, 3)] {
        feed.asked(connections);
        wait_until_waiting(&broker, events);
        // The position after the last event is stored in a batch of its own.
        std::thread::sleep(Duration::from_millis(500));
        broker.kill();
        broker.run();
    }
    let asked: Vec<_> = feed.asked(4).into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(asked, ["", "3", "", "5"]);
}
