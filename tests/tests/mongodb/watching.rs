//! Which collections are watched, and which changes are published.

use bson::doc;

use super::{Consumer, collection, shared, source, start, wait_until_watching};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn only_the_chosen_operations_are_published_and_updates_include_the_document() {
    let set = shared().await;
    let client = set.client().await;
    let documents = collection(&client, "chosen", "c");
    let broker = start(&source(
        &set.uri("chosen"),
        "collection = \"c\"\nmsg = \"/fullDocument\"\noperations = [\"update\", \"delete\"]\non_missing = \"skip\"",
    ));
    wait_until_watching(&broker);
    documents.insert_one(doc! { "_id": 1, "n": 1 }).await.unwrap();
    documents.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 2 } }).await.unwrap();
    // A delete has no document, so `on_missing` skips it.
    documents.insert_one(doc! { "_id": 2 }).await.unwrap();
    documents.delete_one(doc! { "_id": 2 }).await.unwrap();
    documents.update_one(doc! { "_id": 1 }, doc! { "$set": { "m": 3 } }).await.unwrap();
    let mut consumer = Consumer::new(&broker);
    let first = consumer.next();
    // The document is looked up and may already include the second update.
    assert_eq!(first["msg"]["n"], 2, "{first}");
    let second = consumer.next();
    assert_eq!(second["msg"], serde_json::json!({ "_id": 1, "n": 2, "m": 3 }));
    assert_ne!(first["id"], second["id"]);
    assert_eq!(first["id"].as_str().unwrap().len(), 32);
    consumer.0.nothing();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn all_operations_of_a_database_are_published_even_those_unknown_to_the_driver() {
    let set = shared().await;
    let client = set.client().await;
    let broker = start(&source(&set.uri("whole"), "msg = \"/operationType\"\noperations = [\"*\"]"));
    wait_until_watching(&broker);
    let documents = collection(&client, "whole", "c");
    let index = doc! { "createIndexes": "c", "indexes": [{ "key": { "n": 1 }, "name": "n" }] };
    client.database("whole").run_command(index).await.unwrap();
    documents.insert_one(doc! { "_id": 1 }).await.unwrap();
    documents.replace_one(doc! { "_id": 1 }, doc! { "x": 1 }).await.unwrap();
    documents.delete_one(doc! { "_id": 1 }).await.unwrap();
    let mut consumer = Consumer::new(&broker);
    let got: Vec<_> = (0..5).map(|_| consumer.msg()).collect();
    assert_eq!(got, ["create", "createIndexes", "insert", "replace", "delete"]);
}
