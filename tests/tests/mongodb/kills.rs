//! Broker, servers and source are killed, and every change arrives once and in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::doc;
use herald_tests::{PATIENCE, ReplicaSet, TestBroker};
use mongodb::Client;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::{Consumer, collection, configure, insist, prepare, run, source, wait_until_watching};

const DOCUMENTS: i32 = 10;

/// Increments the documents in turn until told to stop; returns the last value.
async fn count_up(client: Client, stop: Arc<AtomicBool>) -> i32 {
    let counters = collection(&client, "d", "counters");
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        for id in 0..DOCUMENTS {
            insist(|| async {
                // Retrying a write that had succeeded is harmless, because writing the same value is not a change.
                counters.update_one(doc! { "_id": id }, doc! { "$set": { "n": n } }).upsert(true).await
            })
            .await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    n
}

/// Reads until each document has reached `last`. Each value must come once and in order.
fn read_to(broker: &TestBroker, last: i32) {
    let mut consumer = Consumer::new(broker);
    let mut at: BTreeMap<i64, i64> = BTreeMap::new();
    while at.len() < DOCUMENTS as usize || at.values().any(|n| *n < i64::from(last)) {
        let change = consumer.msg();
        assert!(change.get("gap").is_none(), "{change}");
        let id = change["documentKey"]["_id"].as_i64().unwrap();
        let inserted = &change["fullDocument"]["n"];
        let n = if inserted.is_null() { &change["updateDescription"]["updatedFields"]["n"] } else { inserted };
        let before = at.insert(id, n.as_i64().unwrap()).unwrap_or(0);
        assert_eq!(n.as_i64(), Some(before + 1), "document {id}: {change}");
    }
    consumer.0.nothing();
}

fn everything(uri: &str) -> String {
    source(uri, "collection = \"counters\"\nfull_document = \"off\"")
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn every_change_arrives_once_and_in_order_whatever_is_killed() {
    let mut set = ReplicaSet::start(1, &[]).await;
    let mut broker = prepare(&everything(&set.uri("d")));
    run(&mut broker);
    wait_until_watching(&broker);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(count_up(set.client().await, Arc::clone(&stop)));
    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..400))).await;
        if round % 4 == 3 {
            set.node(0).kill();
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
            set.node(0).run().await;
        } else {
            broker.kill();
            broker.run();
        }
    }
    set.wait_for_primary().await;
    stop.store(true, Ordering::SeqCst);
    let last = writer.await.unwrap();
    assert!(last > 5, "too little was written");
    read_to(&broker, last);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_primary_that_steps_down_or_dies_costs_no_change() {
    let mut set = ReplicaSet::start(3, &[]).await;
    let mut broker = prepare(&everything(&set.uri("d")));
    run(&mut broker);
    wait_until_watching(&broker);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(count_up(set.client().await, Arc::clone(&stop)));
    set.step_down().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let primary = set.wait_for_primary().await;
    set.node(primary).kill();
    set.wait_for_primary().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::SeqCst);
    let last = writer.await.unwrap();
    read_to(&broker, last);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_server_that_is_down_at_the_start_is_waited_for() {
    let mut set = ReplicaSet::start(1, &[]).await;
    let uri = set.uri("d");
    set.node(0).kill();
    let mut broker = prepare("");
    configure(&broker, &source(&format!("{uri}&serverSelectionTimeoutMS=500"), "msg = \"/documentKey/_id\""));
    broker.env("HERALD_BROKER__LOG", "info,pipeline=debug");
    broker.run();
    let line = broker.wait_for_log("the change stream is interrupted");
    assert!(line.contains("no usable server (127.0.0.1:") && line.contains("Connection refused"), "{line}");
    broker.telnet().asks("ping", "pong");
    set.node(0).run().await;
    wait_until_watching(&broker);
    let client = set.client().await;
    insist(|| async { collection(&client, "d", "any").insert_one(doc! { "_id": 7 }).await }).await;
    assert_eq!(Consumer::new(&broker).msg(), 7);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn the_token_of_a_quiet_collection_moves_with_the_cluster() {
    let set = super::shared().await;
    let client = set.client().await;
    let mut broker = prepare(&source(&set.uri("quiet"), "collection = \"never\""));
    run(&mut broker);
    wait_until_watching(&broker);
    assert!(broker.terminate().success());
    let before = cursor(&broker);
    run(&mut broker);
    let began = Instant::now();
    let after = loop {
        // Only an unwatched collection is written to.
        for n in 0..50 {
            insist(|| async { collection(&client, "quiet", "busy").insert_one(doc! { "n": n }).await }).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        if began.elapsed() > Duration::from_secs(7) {
            assert!(broker.terminate().success());
            let after = cursor(&broker);
            if after != before {
                break after;
            }
            run(&mut broker);
        }
        assert!(began.elapsed() < PATIENCE, "the token does not move: {before}");
    };
    assert_eq!(after["scope"], before["scope"]);
    assert!(after["time"].as_u64() > before["time"].as_u64(), "{after} after {before}");
}

/// The stored position of the source of a stopped broker.
fn cursor(broker: &TestBroker) -> Value {
    let output = std::process::Command::new(herald_tests::herald()).arg("export").current_dir(broker.dir()).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let line = text.lines().find(|line| line.contains("\"mongo\"")).unwrap_or_else(|| panic!("no cursor:\n{text}"));
    let line: Value = serde_json::from_str(line).unwrap();
    let value = find_string(&line, "token").unwrap_or_else(|| panic!("{line}"));
    serde_json::from_str(&value).unwrap()
}

/// Any string in `json` that contains `word`.
fn find_string(json: &Value, word: &str) -> Option<String> {
    match json {
        Value::String(text) => text.contains(word).then(|| text.clone()),
        Value::Array(items) => items.iter().find_map(|item| find_string(item, word)),
        Value::Object(fields) => fields.values().find_map(|field| find_string(field, word)),
        _ => None,
    }
}
