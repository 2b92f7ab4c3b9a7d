//! Clients of the Elixir reference broker work unchanged: they do not wait for the greeting, look only at lines that are JSON
//! objects, and at once repeat an acknowledgement that is answered with `no_event_error`.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use herald_tests::{PATIENCE, TestBroker};

/// The reference's subscriber. Returns the ids in the order of delivery, and the number of repeated acknowledgements.
fn subscriber(
    addr: SocketAddr,
    topic: &str,
    count: usize,
    ready: &std::sync::mpsc::SyncSender<()>,
) -> (Vec<String>, usize) {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut out = &stream;
    out.write_all(format!("sub {topic}\r\n").as_bytes()).unwrap();
    let mut ids = Vec::new();
    let mut again = 0;
    let mut acknowledged = 0;
    for line in BufReader::new(&stream).lines() {
        let line = line.unwrap();
        if line.starts_with("successfully subscribed") {
            ready.send(()).unwrap();
        } else if let Some(id) = line.strip_prefix("no_event_error: ") {
            again += 1;
            assert!(again < 100, "an endless loop about {id}");
            out.write_all(format!("ack {topic} {id}\r\n").as_bytes()).unwrap();
        } else if line.starts_with("acknowledged from logs ev_id=") {
            acknowledged += 1;
            if acknowledged == count {
                break;
            }
        } else if let Ok(serde_json::Value::Object(event)) = serde_json::from_str(&line) {
            let id = event["id"].as_str().unwrap().to_owned();
            std::thread::sleep(Duration::from_millis(1));
            out.write_all(format!("ack {topic} {id}\r\n").as_bytes()).unwrap();
            ids.push(id);
        }
    }
    (ids, again)
}

#[test]
fn the_references_publisher_and_subscribers_work_unchanged() {
    const COUNT: usize = 1000;
    let broker = TestBroker::start("");
    let addr = broker.addr();
    let (ready, is_ready) = std::sync::mpsc::sync_channel(4);
    let subscribers: Vec<_> = ["tweets", "users"]
        .into_iter()
        .map(|topic| {
            let ready = ready.clone();
            std::thread::spawn(move || subscriber(addr, topic, COUNT, &ready))
        })
        .collect();
    is_ready.recv().unwrap();
    is_ready.recv().unwrap();
    // A burst in one write, as the change stream sends it; the reference lost most of such a burst.
    let mut publisher = TcpStream::connect(addr).unwrap();
    let mut burst = String::new();
    for n in 0..COUNT {
        burst += &format!("pub tweets {{\"id\":\"t{n}\",\"priority\":{},\"msg\":\"text\"}}\r\n", n % 7);
        burst += &format!("pub users {{\"id\":\"u{n}\",\"priority\":{},\"msg\":\"name\"}}\r\n", n % 7);
    }
    publisher.write_all(burst.as_bytes()).unwrap();
    for subscriber in subscribers {
        let (ids, again) = subscriber.join().unwrap();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), COUNT, "each event came once");
        assert_eq!(again, 0);
    }
}

#[test]
fn replies_are_not_json_objects() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    for line in ["sub t", "ack t x", "unsub t", "nonsense", "topics", "hello {}", "ping", "pub t x", "help"] {
        let answer = client.ask(line);
        assert!(!matches!(serde_json::from_str(&answer), Ok(serde_json::Value::Object(_))), "{line}: {answer}");
    }
}
