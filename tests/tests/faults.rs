//! A disk that becomes full or fails under a running broker: nothing is confirmed until it works again. Then the broker continues by
//! itself, with everything that was confirmed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use broker_core::storage::contract::faults::preload::{Errno, Faults, Operations, Plan, environment};
use herald_tests::{Telnet, TestBroker, id_of, publish};

/// The error sent to a client whose connection ends with the failed storage.
const CONNECT_AGAIN: &str =
    "error: the storage was opened again after a failure; what was confirmed is there: connect again";

/// A broker whose data directory can be made to fail.
struct Faulty {
    broker: TestBroker,
    faults: Faults,
    kind: &'static str,
    /// Ids in the order of publication.
    confirmed: Vec<String>,
    refused: Vec<String>,
}

impl Faulty {
    fn start(kind: &'static str) -> Self {
        let mut broker = TestBroker::prepare("");
        let control = broker.dir().join("control");
        let faults = Faults::of_another_process(&control);
        for (name, value) in environment(broker.dir(), &control) {
            broker.env(name, value);
        }
        let faulty = Self { broker, faults, kind, confirmed: Vec::new(), refused: Vec::new() };
        // A reopened storage must not clean away what was stored since the start.
        faulty.configure(true);
        faulty.run()
    }

    fn configure(&self, clean_on_start: bool) {
        let (kind, data) = (self.kind, self.broker.dir().join("data"));
        let data = data.display();
        let text = format!("[storage]\nkind = \"{kind}\"\npath = \"{data}\"\nclean_on_start = {clean_on_start}\n");
        std::fs::write(self.broker.dir().join("herald.toml"), text).unwrap();
    }

    fn run(mut self) -> Self {
        self.broker.run();
        self
    }

    fn arm(&self, operations: Operations, error: Errno, lasting: bool) {
        let plan = Plan { operations, at: 0, error, lasting };
        self.faults.arm(&self.broker.dir().join("data"), plan);
    }

    fn publisher(&self) -> Telnet {
        let mut client = self.broker.telnet();
        assert!(client.ask("hello {\"confirm\":true}").starts_with("hello"));
        client
    }

    /// Publishes an event and records a confirmation; returns the reply if it was refused.
    fn publish(&mut self, client: &mut Telnet) -> Result<(), String> {
        let id = (self.confirmed.len() + self.refused.len()).to_string();
        let answer = client.ask(&publish("t", &id, 0));
        if answer == format!("published t {id} synced") {
            self.confirmed.push(id);
            Ok(())
        } else {
            assert!(answer.starts_with("error: storage is out of service: "), "{answer}");
            self.refused.push(id);
            Err(answer)
        }
    }

    /// Publishes until an event is refused, and checks that the following ones are refused too. Returns the refusal.
    fn publish_until_refused(&mut self, client: &mut Telnet) -> String {
        let refusal = (0..1000).find_map(|_| self.publish(client).err()).expect("an event is refused eventually");
        for _ in 0..5 {
            assert_eq!(self.publish(client), Err(refusal.clone()), "every later event is refused too");
        }
        refusal
    }

    /// Checks that everything confirmed is there in order, and nothing else except events that were attempted.
    fn check(&self) {
        let mut client = self.broker.telnet();
        assert!(client.ask("hello {\"prefetch\":1000}").starts_with("hello"));
        client.asks("sub t s", "successfully subscribed to topic t");
        client.send("ping");
        let lines = std::iter::from_fn(|| Some(client.line()).filter(|line| line != "pong"));
        let there: Vec<String> = lines.map(|line| id_of(&line)).collect();
        let confirmed: Vec<_> = there.iter().filter(|id| !self.refused.contains(id)).collect();
        assert_eq!(confirmed, self.confirmed.iter().collect::<Vec<_>>(), "{} of {}", self.kind, there.len());
    }
}

fn recovers_by_itself(kind: &'static str, operations: Operations, error: Errno, lasting: bool, says: &[&str]) {
    let mut faulty = Faulty::start(kind);
    let mut client = faulty.publisher();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    for _ in 0..20 {
        faulty.publish(&mut client).unwrap();
    }
    let mut consumer = faulty.broker.telnet();
    consumer.asks("sub t s", "successfully subscribed to topic t");
    assert_eq!(id_of(&consumer.line()), "0");
    let mut idle = faulty.broker.telnet();

    faulty.arm(operations, error, lasting);
    let refusal = faulty.publish_until_refused(&mut client).to_lowercase();
    assert!(says.iter().any(|word| refusal.contains(word)), "{refusal}");
    assert!(refusal.contains("data"), "the refusal names the directory: {refusal}");
    assert!(consumer.ask("ack t 0").starts_with("error: storage is out of service: "));
    client.asks("ping", "pong");
    if lasting {
        let line = faulty.broker.wait_for_log("reopening the storage failed, retrying");
        assert!(line.to_lowercase().contains("no space left"), "{line}");
        faulty.faults.disarm();
    }
    let _line = faulty.broker.wait_for_log("the broker is back in service");
    for client in [&mut client, &mut consumer, &mut idle] {
        assert_eq!(client.rest(), [CONNECT_AGAIN]);
    }
    let mut client = faulty.publisher();
    for _ in 0..3 {
        faulty.publish(&mut client).unwrap();
    }
    faulty.check();
    faulty.broker.kill();
    faulty.configure(false);
    let faulty = faulty.run();
    faulty.check();
}

fn full(kind: &'static str) {
    recovers_by_itself(kind, Operations::SPACE, Errno::NoSpace, true, &["no space left"]);
}

fn failed_sync(kind: &'static str) {
    recovers_by_itself(kind, Operations::SYNCS, Errno::Io, false, &["input/output error", "i/o error"]);
}

#[test]
fn a_json_log_on_a_full_disk_continues_when_there_is_space() {
    full("json-log");
}

#[test]
fn sled_on_a_full_disk_continues_when_there_is_space() {
    full("sled");
}

#[test]
fn sqlite_on_a_full_disk_continues_when_there_is_space() {
    full("sqlite");
}

#[test]
fn a_json_log_continues_after_a_failed_sync_once_it_is_reopened() {
    failed_sync("json-log");
}

#[test]
fn sled_continues_after_a_failed_sync_once_it_is_reopened() {
    failed_sync("sled");
}

#[test]
fn sqlite_continues_after_a_failed_sync_once_it_is_reopened() {
    failed_sync("sqlite");
}
