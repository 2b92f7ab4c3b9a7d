//! A real MongoDB: its change streams, read by a real broker, and the sink of the tweet pipeline.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod demo;
mod gaps;
mod ids;
mod kills;
mod mistakes;
mod sink;
mod values;
mod watching;

use std::time::{Duration, Instant};

use bson::Document;
use herald_tests::{PATIENCE, ReplicaSet, Telnet, TestBroker};
use mongodb::Client;
use serde_json::Value;

/// `[[sources]]` with `kind = "change-stream"`, publishing to the topic `changes`.
fn source(uri: &str, more: &str) -> String {
    let topic = if more.contains("topic = ") { "" } else { "topic = \"changes\"\n" };
    format!("[[sources]]\nkind = \"change-stream\"\nname = \"mongo\"\nuri = \"{uri}\"\n{topic}{more}\n")
}

/// A stopped broker with this configuration, whose topic `changes` has the durable subscription `all`.
fn prepare(config: &str) -> TestBroker {
    let mut broker = TestBroker::prepare("");
    broker.run();
    broker.telnet().asks("sub changes all", "successfully subscribed to topic changes");
    assert!(broker.terminate().success());
    configure(&broker, config);
    broker
}

fn configure(broker: &TestBroker, config: &str) {
    std::fs::write(broker.dir().join("herald.toml"), config).unwrap();
}

/// A running broker of [`prepare`], with its stream open.
fn start(config: &str) -> TestBroker {
    let mut broker = prepare(config);
    run(&mut broker);
    broker
}

/// Starts the broker and waits until its stream is open.
fn run(broker: &mut TestBroker) {
    broker.env("HERALD_BROKER__LOG", "info,pipeline=debug");
    broker.run();
    let _line = broker.wait_for_log("change stream opened");
}

/// Waits until the position of the source is stored; every later write is read.
fn wait_until_watching(broker: &TestBroker) {
    let _line = broker.wait_for_log("the change stream stands at a new beginning");
}

/// A consumer of the subscription `all`.
struct Consumer(Telnet);

impl Consumer {
    fn new(broker: &TestBroker) -> Self {
        let mut client = broker.telnet();
        assert!(client.ask("hello {\"prefetch\":1000,\"replies\":\"quiet\"}").starts_with("hello"));
        client.asks("sub changes all", "successfully subscribed to topic changes");
        Self(client)
    }

    /// Receives and acknowledges the next event.
    fn next(&mut self) -> Value {
        let event: Value = serde_json::from_str(&self.0.line()).unwrap();
        self.0.send(&format!("ack changes {}", event["id"].as_str().unwrap()));
        event
    }

    /// Receives the message of the next event.
    fn msg(&mut self) -> Value {
        self.next()["msg"].take()
    }

    /// Leaves once every acknowledgement has arrived. A broker that is stopped earlier delivers those events again.
    fn done(mut self) {
        self.0.send("ping");
        while self.0.line() != "pong" {}
    }
}

/// Retries an operation until the servers accept it.
async fn insist<T, F: Future<Output = mongodb::error::Result<T>>>(what: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        match what().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn collection(client: &Client, database: &str, name: &str) -> mongodb::Collection<Document> {
    client.database(database).collection(name)
}

/// A replica set of one node, shared by the tests, which each use their own database.
async fn shared() -> &'static ReplicaSet {
    static SET: tokio::sync::OnceCell<ReplicaSet> = tokio::sync::OnceCell::const_new();
    SET.get_or_init(|| ReplicaSet::start(1, &[])).await
}
