//! Sources that publish to a broker in another process: every event of the feed arrives, whichever process is killed.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use herald_tests::{NumberFeed, PATIENCE, TestBroker, TestPublisher, herald};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;

/// A publisher that reads the feed at `feed` and publishes to the broker at `broker`.
fn config(broker: SocketAddr, feed: SocketAddr, keys: &str) -> String {
    format!(
        "[publish]\nto = \"tcp://{broker}\"\n{keys}\n[[sources]]\nkind = \"sse\"\nname = \"numbers\"\n\
         url = \"http://{feed}/\"\ntopic = \"numbers\"\nmsg = \"/n\"\n"
    )
}

/// A broker with the durable subscription `all` of the topic, without any consumers attached.
fn broker(config: &str) -> TestBroker {
    let broker = TestBroker::start(config);
    broker.telnet().asks("sub numbers all", "successfully subscribed to topic numbers");
    broker
}

/// The number of events waiting in the broker.
fn waiting(broker: &TestBroker) -> u64 {
    let topics: serde_json::Value = serde_json::from_str(&broker.telnet().ask("topics")).unwrap();
    topics.as_array().unwrap().iter().find(|topic| topic["topic"] == "numbers").unwrap()["waiting"].as_u64().unwrap()
}

fn wait_until_waiting(broker: &TestBroker, events: u64) {
    let began = Instant::now();
    while waiting(broker) < events {
        assert!(began.elapsed() < PATIENCE, "{} of {events}", waiting(broker));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Takes and acknowledges this many events.
fn take(broker: &TestBroker, events: u64) -> Vec<u64> {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"prefetch\":1000,\"replies\":\"quiet\"}").starts_with("hello"));
    client.asks("sub numbers all", "successfully subscribed to topic numbers");
    let mut numbers = Vec::new();
    for _ in 0..events {
        let event: serde_json::Value = serde_json::from_str(&client.line()).unwrap();
        let number = event["msg"].as_u64().unwrap();
        assert_eq!(event["id"], number.to_string(), "the id comes from the feed");
        numbers.push(number);
        client.send(&format!("ack numbers {number}"));
    }
    client.nothing();
    numbers
}

#[test]
fn every_event_arrives_once_and_in_order_whichever_process_is_killed() {
    const EVENTS: u64 = 20_000;
    let feed = NumberFeed::start(EVENTS, 3);
    let mut broker = broker("");
    let mut publisher = TestPublisher::start(&config(broker.addr(), feed.addr(), ""));
    let mut rng = StdRng::seed_from_u64(5);
    let began = Instant::now();
    let mut kills = [0, 0];
    loop {
        std::thread::sleep(Duration::from_millis(rng.random_range(20..400)));
        if waiting(&broker) >= EVENTS {
            break;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "{} of {EVENTS} after {kills:?} kills", waiting(&broker));
        let which = rng.random_range(0..3);
        if which != 1 {
            broker.kill();
            kills[0] += 1;
        }
        if which != 0 {
            publisher.kill();
            kills[1] += 1;
            publisher.run();
        }
        if which != 1 {
            broker.run();
        }
    }
    assert!(kills.iter().all(|kills| *kills > 1), "{kills:?}: the feed was read before enough kills");
    // The publisher may still repeat batches under way, so it ends before anything is acknowledged.
    assert!(publisher.terminate().success(), "{}", publisher.log());
    assert_eq!(take(&broker, EVENTS), (1..=EVENTS).collect::<Vec<u64>>());
    assert!(feed.resumed_at().iter().filter(|id| **id > 0).count() > 3, "{:?}", feed.resumed_at());
}

#[test]
fn an_orderly_stop_stores_the_position_of_everything_confirmed() {
    const EVENTS: u64 = 1_000_000;
    let feed = NumberFeed::start(EVENTS, 9);
    let broker = broker("");
    let mut publisher = TestPublisher::start(&config(broker.addr(), feed.addr(), ""));
    let mut rng = StdRng::seed_from_u64(2);
    let mut before = 0;
    for _ in 0..5 {
        wait_until_waiting(&broker, before + 1);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..200)));
        assert!(publisher.terminate().success(), "{}", publisher.log());
        let stored = publisher.cursor().expect("something was confirmed").parse().unwrap();
        assert_eq!(waiting(&broker), stored, "{}", publisher.log());
        before = stored;
        publisher.run();
    }
}

#[test]
fn an_unreachable_broker_is_reported_and_waited_for() {
    let feed = NumberFeed::start(50, 4);
    let mut broker = broker("");
    broker.kill();
    let mut publisher = TestPublisher::start(&config(broker.addr(), feed.addr(), ""));
    let line = publisher.wait_for_log("cannot reach");
    assert!(line.contains(&format!("tcp://{}", broker.addr())) && line.contains("refused"), "{line}");
    broker.run();
    wait_until_waiting(&broker, 50);
    assert!(publisher.terminate().success());
    // No broker runs in the process, and no storage was created.
    assert!(publisher.log().contains("no broker runs here"), "{}", publisher.log());
    assert!(!publisher.dir().join("data").exists() && !publisher.log().contains("listening"), "{}", publisher.log());
}

#[test]
fn a_refused_token_is_reported_and_retried() {
    let feed = NumberFeed::start(50, 4);
    let auth = |token: &str| {
        format!(
            "[auth]\ntokens = [{{ token = \"{token}\", name = \"all\", publish = [\"*\"], subscribe = [\"*\"], admin = true }}]\n"
        )
    };
    let broker = TestBroker::start(&auth("right"));
    let greet = |token: &str| {
        let mut client = broker.telnet();
        assert!(client.ask(&format!("hello {{\"token\":\"{token}\"}}")).starts_with("hello "));
        client
    };
    greet("right").asks("sub numbers all", "successfully subscribed to topic numbers");
    let publisher = TestPublisher::start(&config(broker.addr(), feed.addr(), "token_file = \"token\""));
    // The process ends at once, because a missing file is a mistake in the configuration.
    let mut publisher = publisher;
    assert_eq!(publisher.wait().code(), Some(2));
    assert!(publisher.log().contains("publish.token_file"), "{}", publisher.log());
    std::fs::write(publisher.dir().join("token"), "s3cret\n").unwrap();
    publisher.run();
    let line = publisher.wait_for_log("publish.token");
    assert!(line.contains("authentication failed"), "{line}");
    // The token is corrected at the broker.
    std::fs::write(broker.dir().join("herald.toml"), auth("s3cret")).unwrap();
    broker.signal(Signal::HUP);
    let _said = broker.wait_for_log("the tokens were read again");
    let mut client = greet("s3cret");
    client.asks("sub numbers all", "successfully subscribed to topic numbers");
    assert!(client.line().contains("\"msg\":1,"));
    assert!(!publisher.log().contains("s3cret"), "{}", publisher.log());
}

#[test]
fn events_refused_by_a_full_topic_are_published_when_there_is_room() {
    const EVENTS: u64 = 3_000;
    let feed = NumberFeed::start(EVENTS, 6);
    let broker = broker("[topics.numbers]\nmax_waiting = 100\n");
    let publisher = TestPublisher::start(&config(broker.addr(), feed.addr(), ""));
    let _said = publisher.wait_for_log("the topic is full");
    let mut numbers = take(&broker, EVENTS);
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=EVENTS).collect::<Vec<u64>>(), "each event once");
}

#[test]
fn the_first_event_may_have_the_largest_size_that_the_broker_accepts() {
    // Larger than the limit assumed before a broker announces its own.
    let text = "x".repeat(700_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let feed = listener.local_addr().unwrap();
    let event = format!("id: 1\ndata: {{\"n\":[\"{text}\",\ndata: \"{text}\"]}}\n\n");
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        // An answer sent before the request has arrived would be refused.
        let _request = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
        stream.write_all(event.as_bytes()).unwrap();
        std::thread::park();
    });
    let mut broker = broker("[broker]\nmax_line_bytes = 4194304\nmax_output_line_bytes = 4194304\n");
    broker.kill();
    let publisher = TestPublisher::start(&config(broker.addr(), feed, ""));
    let _not_yet = publisher.wait_for_log("cannot reach");
    let _read = publisher.wait_for_log("sse stream open");
    broker.run();
    wait_until_waiting(&broker, 1);
}

#[test]
fn a_stop_does_not_wait_for_an_unreachable_broker() {
    let feed = NumberFeed::start(1_000_000, 8);
    let mut broker = broker("");
    let keys = "[broker]\nshutdown_timeout_ms = 3600000\n";
    let mut publisher = TestPublisher::start(&config(broker.addr(), feed.addr(), keys));
    wait_until_waiting(&broker, 1);
    broker.kill();
    let _gone = publisher.wait_for_log("no connection for publishing");
    assert!(publisher.terminate().success(), "{}", publisher.log());
    let stored: u64 = publisher.cursor().map_or(0, |cursor| cursor.parse().unwrap());
    broker.run();
    // The broker may have stored more events than it could confirm.
    assert!(stored <= waiting(&broker), "{stored}");
}

#[test]
fn a_damaged_cursor_and_a_second_process_are_refused_with_advice() {
    let feed = NumberFeed::start(50, 4);
    let broker = broker("");
    let mut publisher = TestPublisher::start(&config(broker.addr(), feed.addr(), ""));
    wait_until_waiting(&broker, 50);
    let began = Instant::now();
    while publisher.cursor().as_deref() != Some("50") {
        assert!(began.elapsed() < PATIENCE, "{:?}", publisher.cursor());
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = publisher.command().output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("in use by process") && said.contains("publish.path"), "{said}");
    publisher.kill();
    let files = std::fs::read_dir(publisher.dir().join("sources")).unwrap();
    let path = files.map(|file| file.unwrap().path()).find(|path| path.extension().is_some_and(|end| end == "cursor"));
    let path = path.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("50", "40")).unwrap();
    publisher.run();
    assert_eq!(publisher.wait().code(), Some(1), "{}", publisher.log());
    let log = publisher.log();
    assert!(log.contains("is damaged") && log.contains("source numbers") && log.contains("remove it"), "{log}");
    std::fs::write(&path, text).unwrap();
    publisher.run();
    let line = publisher.wait_for_log("source started");
    assert!(line.contains("last_event_id=50"), "{line}");
}

#[test]
fn the_check_of_a_configuration_says_that_no_broker_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("herald.toml");
    let checked = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let output = Command::new(herald()).args(["config", "check", "--config"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = checked("[publish]\nto = \"tcp://broker:8000\"\n");
    assert!(said.contains("sources publish to tcp://broker:8000; no broker runs here"), "{said}");
    let said = checked("[publish]\nto = \"tcp://broker:8000\"\n[transports.tcp]\nlisten = \"127.0.0.1:0\"\n");
    assert!(said.contains("stays here"), "{said}");
}
