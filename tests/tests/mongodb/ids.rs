//! `id = "/documentKey/_id"`: a newer change of a document replaces a waiting older one, but never a change of another document.

use std::time::{Duration, Instant};

use bson::spec::BinarySubtype;
use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Timestamp, bson, doc, oid::ObjectId,
};
use herald_tests::{PATIENCE, TestBroker};
use serde_json::Value;

use super::{collection, shared, source, start, wait_until_watching};

const BY_DOCUMENT: &str = "msg = \"/fullDocument/n\"\nid = \"/documentKey/_id\"\n";

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

/// Values that are different `_id`s for MongoDB.
fn different() -> Vec<Bson> {
    let uuid = |byte| Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![byte; 16] });
    let scoped = JavaScriptCodeWithScope { code: "f()".to_owned(), scope: doc! { "n": 1 } };
    vec![
        Bson::ObjectId(ObjectId::from_bytes([1; 12])),
        bson!("010101010101010101010101"),
        bson!(1),
        bson!("1"),
        bson!("number:1"),
        bson!(1.5),
        bson!(0.1),
        decimal("0.1"),
        decimal("0.1000000000000000055511151231257827"),
        bson!(9_007_199_254_740_993_i64),
        bson!(9_007_199_254_740_992.0),
        bson!(f64::NAN),
        bson!(f64::INFINITY),
        bson!(true),
        Bson::Null,
        bson!("null"),
        bson!("null:null"),
        bson!(""),
        bson!("has blanks"),
        bson!("has  blanks"),
        bson!("x".repeat(300)),
        bson!("x".repeat(301)),
        bson!({ "a": 1, "b": 2 }),
        bson!({ "b": 2, "a": 1 }),
        bson!({ "a": "1", "b": 2 }),
        uuid(1),
        uuid(2),
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![1; 16] }),
        Bson::DateTime(DateTime::from_millis(0)),
        Bson::DateTime(DateTime::from_millis(i64::MAX)),
        Bson::Timestamp(Timestamp { time: 1, increment: 1 }),
        Bson::JavaScriptCode("f()".to_owned()),
        Bson::JavaScriptCodeWithScope(scoped),
        Bson::MinKey,
        Bson::MaxKey,
    ]
}

/// The messages of the waiting events, once `last` is among them.
fn waiting(broker: &TestBroker, last: i32) -> Vec<Value> {
    let mut client = broker.telnet();
    let began = Instant::now();
    loop {
        client.send("peek changes all 1000");
        let mut seen = Vec::new();
        loop {
            let line = client.line();
            if line == "end of peek" {
                break;
            }
            seen.push(serde_json::from_str::<Value>(&line).unwrap()["msg"].take());
        }
        if seen.contains(&Value::from(last)) {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "{seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn documents_with_ids_of_any_type_replace_no_other_document() {
    let set = shared().await;
    let client = set.client().await;
    let broker = start(&source(&set.uri("ids"), &format!("collection = \"c\"\n{BY_DOCUMENT}")));
    wait_until_watching(&broker);
    let documents = collection(&client, "ids", "c");
    let values = different();
    let last = i32::try_from(values.len()).unwrap();
    for (n, id) in (1..).zip(values) {
        documents.insert_one(doc! { "_id": id.clone(), "n": n }).await.unwrap_or_else(|error| panic!("{id}: {error}"));
    }
    let expected: Vec<Value> = (1..=last).map(Value::from).collect();
    assert_eq!(waiting(&broker, last), expected);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_newer_change_replaces_the_waiting_one_even_if_the_type_of_the_id_has_changed() {
    let set = shared().await;
    let client = set.client().await;
    let broker = start(&source(&set.uri("equal"), &format!("collection = \"c\"\n{BY_DOCUMENT}")));
    wait_until_watching(&broker);
    let documents = collection(&client, "equal", "c");
    // In MongoDB, a replacement may change the type of an `_id` if the value stays equal.
    let equal: Vec<Vec<Bson>> = vec![
        vec![bson!(1), bson!(1.0), bson!(1_i64), decimal("1"), decimal("1.00"), decimal("10E-1")],
        vec![bson!(0.5), decimal("0.50")],
        vec![bson!(f64::NAN), decimal("NaN")],
        vec![bson!({ "a": 1 }), bson!({ "a": 1.0 }), bson!({ "a": decimal("1.0") })],
        vec![bson!("s"), Bson::Symbol("s".to_owned())],
    ];
    let mut n = 0;
    let mut newest = Vec::new();
    for ids in equal {
        for (index, id) in ids.iter().enumerate() {
            n += 1;
            let document = doc! { "_id": id.clone(), "n": n };
            if index == 0 {
                documents.insert_one(document).await.unwrap();
            } else {
                let replaced = documents.replace_one(doc! { "_id": id.clone() }, document).await.unwrap();
                assert_eq!(replaced.matched_count, 1, "{id}");
            }
        }
        // The change carries the type before the replacement.
        n += 1;
        let update: Document = doc! { "$set": { "n": n } };
        assert_eq!(documents.update_one(doc! { "_id": ids[0].clone() }, update).await.unwrap().modified_count, 1);
        newest.push(Value::from(n));
    }
    n += 1;
    documents.insert_one(doc! { "_id": "last", "n": n }).await.unwrap();
    newest.push(Value::from(n));
    assert_eq!(waiting(&broker, n), newest);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn documents_of_different_collections_do_not_replace_each_other() {
    let set = shared().await;
    let client = set.client().await;
    for (database, watched) in [("ids-of-two", "collection = [\"a\", \"a/b\"]\n"), ("ids-of-all", "")] {
        let broker = start(&source(&set.uri(database), &format!("{watched}{BY_DOCUMENT}")));
        wait_until_watching(&broker);
        let (a, b) = (collection(&client, database, "a"), collection(&client, database, "a/b"));
        a.insert_one(doc! { "_id": 1, "n": 1 }).await.unwrap();
        b.insert_one(doc! { "_id": 1, "n": 2 }).await.unwrap();
        a.insert_one(doc! { "_id": "b/c", "n": 3 }).await.unwrap();
        b.insert_one(doc! { "_id": "c", "n": 4 }).await.unwrap();
        a.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 5 } }).await.unwrap();
        assert_eq!(waiting(&broker, 5), [2, 3, 4, 5], "{database}");
    }
}
