//! Drops, renames, lost history and oversized changes are reported to consumers as gaps, and reading continues.

use bson::{Document, doc};
use herald_tests::ReplicaSet;
use serde_json::json;

use super::{Consumer, collection, insist, prepare, run, shared, source, start, wait_until_watching};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_dropped_or_renamed_collection_is_reported_and_watched_again() {
    let set = shared().await;
    let client = set.client().await;
    let tweets = collection(&client, "dropped", "tweets");
    tweets.insert_one(doc! { "_id": 0 }).await.unwrap();
    let broker = start(&source(&set.uri("dropped"), "collection = \"tweets\"\nmsg = \"/documentKey/_id\""));
    wait_until_watching(&broker);
    tweets.insert_one(doc! { "_id": 1 }).await.unwrap();
    tweets.drop().await.unwrap();
    tweets.insert_one(doc! { "_id": 2 }).await.unwrap();
    let rename = doc! { "renameCollection": "dropped.tweets", "to": "dropped.old" };
    client.database("admin").run_command(rename).await.unwrap();
    tweets.insert_one(doc! { "_id": 3 }).await.unwrap();
    client.database("dropped").drop().await.unwrap();
    tweets.insert_one(doc! { "_id": 4 }).await.unwrap();

    let mut consumer = Consumer::new(&broker);
    assert_eq!(consumer.msg(), 1);
    let gap = consumer.msg();
    assert_eq!(gap["gap"]["source"], "mongo", "{gap}");
    assert_eq!(gap["gap"]["reason"], "the collection tweets was dropped");
    assert!(gap["gap"]["to"]["token"].as_str().unwrap().starts_with("82"), "{gap}");
    assert_eq!(consumer.msg(), 2);
    assert_eq!(consumer.msg()["gap"]["reason"], "the collection tweets was renamed to old");
    assert_eq!(consumer.msg(), 3);
    // MongoDB drops the collections of a database before the database.
    assert_eq!(consumer.msg()["gap"]["reason"], "the collection tweets was dropped");
    assert_eq!(consumer.msg(), 4);
    consumer.0.nothing();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn one_dropped_collection_of_several_is_reported_and_the_others_continue() {
    let set = shared().await;
    let client = set.client().await;
    let (a, b, c) = ("a", "b", "c");
    let insert = |name: &'static str, id: i32| {
        let client = client.clone();
        async move { collection(&client, "several", name).insert_one(doc! { "_id": id }).await.unwrap() }
    };
    insert(a, 0).await;
    let broker = start(&source(
        &set.uri("ignored"),
        "database = \"several\"\ncollection = [\"a\", \"b\"]\nmsg = \"/documentKey/_id\"",
    ));
    wait_until_watching(&broker);
    insert(a, 1).await;
    insert(c, 2).await;
    insert(b, 3).await;
    collection(&client, "several", c).drop().await.unwrap();
    collection(&client, "several", a).drop().await.unwrap();
    insert(b, 4).await;
    insert(a, 5).await;
    client.database("several").drop().await.unwrap();
    insert(b, 6).await;
    let mut consumer = Consumer::new(&broker);
    assert_eq!([consumer.msg(), consumer.msg()], [1, 3]);
    assert_eq!(consumer.msg()["gap"]["reason"], "the collection a was dropped");
    assert_eq!([consumer.msg(), consumer.msg()], [4, 5]);
    let mut reasons: Vec<String> =
        (0..3).map(|_| consumer.msg()["gap"]["reason"].as_str().unwrap_or_default().to_owned()).collect();
    reasons[..2].sort();
    assert_eq!(
        reasons,
        ["the collection a was dropped", "the collection b was dropped", "the database several was dropped"]
    );
    assert_eq!(consumer.msg(), 6);
    consumer.0.nothing();
}

/// Writes until the oplog, of one MiB, has dropped the earlier changes.
async fn push_out(set: &ReplicaSet) {
    let client = set.client().await;
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let first =
        || async { oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap().get_timestamp("ts") };
    let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.unwrap().unwrap();
    let newest = newest.get_timestamp("ts").unwrap();
    let began = std::time::Instant::now();
    while first().await.unwrap() <= newest {
        assert!(began.elapsed() < herald_tests::PATIENCE, "the oplog keeps everything");
        let filling: Vec<Document> = (0..100).map(|_| doc! { "x": "x".repeat(10_000) }).collect();
        insist(|| async { collection(&client, "other", "filling").insert_many(&filling).await }).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn lost_history_stops_the_source_or_is_reported_as_configured() {
    let set = ReplicaSet::start(1, &["--oplogSize", "1", "--syncdelay", "1"]).await;
    let client = set.client().await;
    let uri = set.uri("d");
    let config = |policy: &str| {
        source(&uri, &format!("collection = \"c\"\nmsg = \"/documentKey/_id\"\non_lost_history = \"{policy}\""))
    };
    let insert = |id: i32| {
        let client = client.clone();
        async move { collection(&client, "d", "c").insert_one(doc! { "_id": id }).await.unwrap() }
    };
    let (mut fail, mut restart) = (prepare(&config("fail")), prepare(&config("restart")));
    for broker in [&mut fail, &mut restart] {
        run(broker);
        wait_until_watching(broker);
    }
    insert(1).await;
    for broker in [&mut fail, &mut restart] {
        let mut consumer = Consumer::new(broker);
        assert_eq!(consumer.msg(), 1);
        consumer.done();
        assert!(broker.terminate().success());
    }
    insert(2).await;
    push_out(&set).await;

    fail.run();
    let line = fail.wait_for_log("a source has stopped");
    assert!(line.contains("ChangeStreamHistoryLost (286)") && line.contains("on_lost_history = "), "{line}");
    fail.telnet().asks("ping", "pong");

    restart.run();
    wait_until_watching(&restart);
    insert(3).await;
    let mut consumer = Consumer::new(&restart);
    let gap = consumer.msg();
    assert!(gap["gap"]["reason"].as_str().unwrap().contains("ChangeStreamHistoryLost"), "{gap}");
    assert_ne!(gap["gap"]["from"]["token"], gap["gap"]["to"]["token"], "{gap}");
    assert_eq!(consumer.msg(), 3);
    consumer.done();
    // The gap is reported once, because the new token is stored with it.
    assert!(restart.terminate().success());
    run(&mut restart);
    insert(4).await;
    assert_eq!(Consumer::new(&restart).msg(), 4);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn an_oversized_change_is_reported_and_the_changes_around_it_arrive() {
    let set = shared().await;
    let client = set.client().await;
    let images = doc! { "create": "c", "changeStreamPreAndPostImages": { "enabled": true } };
    client.database("large").run_command(images).await.unwrap();
    let documents = collection(&client, "large", "c");
    let large = |letter: &str| doc! { "_id": 1, "text": letter.repeat(9 << 20) };
    documents.insert_one(large("a")).await.unwrap();
    let broker = start(&source(
        &set.uri("large"),
        "collection = \"c\"\nmsg = \"/documentKey/_id\"\nfull_document_before_change = \"required\"",
    ));
    wait_until_watching(&broker);
    documents.insert_one(doc! { "_id": 2 }).await.unwrap();
    // The documents before and after the change are 18 MiB together, and MongoDB sends at most 16.
    documents.replace_one(doc! { "_id": 1 }, large("b")).await.unwrap();
    documents.insert_one(doc! { "_id": 3 }).await.unwrap();
    documents.delete_one(doc! { "_id": 1 }).await.unwrap();
    let mut consumer = Consumer::new(&broker);
    assert_eq!(consumer.msg(), 2);
    let next = consumer.msg();
    if next["gap"].is_object() {
        let reason = next["gap"]["reason"].as_str().unwrap();
        assert!(reason.contains("(replace in c)") && reason.contains("16 MiB"), "{reason}");
    } else {
        // A server that splits large changes sends this one.
        assert_eq!(next, 1);
    }
    assert_eq!([consumer.msg(), consumer.msg()], [3, 1]);
    consumer.0.nothing();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_document_nested_too_deep_for_json_readers_is_reported_and_skipped() {
    let set = shared().await;
    let client = set.client().await;
    let documents = collection(&client, "deep", "c");
    let broker = start(&source(&set.uri("deep"), "collection = \"c\"\nmsg = \"/fullDocument\""));
    wait_until_watching(&broker);
    // MongoDB allows 180 levels in a stored document, JSON readers often only 128.
    let mut deep = doc! { "x": 1 };
    for _ in 0..140 {
        deep = doc! { "x": deep };
    }
    documents.insert_one(doc! { "_id": 1, "deep": deep }).await.unwrap();
    documents.insert_one(doc! { "_id": 2 }).await.unwrap();
    let mut consumer = Consumer::new(&broker);
    let gap = consumer.msg();
    assert!(gap["gap"]["reason"].as_str().unwrap().contains("nested too deep"), "{gap}");
    assert_eq!(consumer.msg(), json!({ "_id": 2 }));
}
