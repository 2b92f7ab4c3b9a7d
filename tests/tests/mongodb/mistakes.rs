//! Mistakes that an operator must correct are reported.

use bson::doc;
use herald_tests::{Mongod, TestBroker};

use super::{configure, prepare, run, shared, source, wait_until_watching};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_token_of_another_scope_stops_the_source_and_reports_the_change() {
    let set = shared().await;
    let uri = set.uri("scope");
    let mut broker = prepare(&source(&uri, "collection = \"a\""));
    run(&mut broker);
    wait_until_watching(&broker);
    assert!(broker.terminate().success());
    configure(&broker, &source(&uri, "collection = [\"a\", \"b\"]\noperations = [\"insert\"]"));
    broker.run();
    let line = broker.wait_for_log("a source has stopped");
    for part in
        ["collection: was a, is a, b", "operations: was delete, insert, replace, update, is insert", "another name"]
    {
        assert!(line.contains(part), "{line}");
    }
    assert!(broker.terminate().success());
    // With the old scope, the source continues.
    configure(&broker, &source(&uri, "collection = \"a\""));
    run(&mut broker);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_server_without_a_replica_set_is_reported_with_advice() {
    let mongod = Mongod::standalone(&[]).await;
    let broker = TestBroker::start(&source(&format!("mongodb://{}/d", mongod.addr()), ""));
    let line = broker.wait_for_log("a source has stopped");
    assert!(line.contains("not a replica set") && line.contains("rs.initiate()"), "{line}");
    broker.telnet().asks("ping", "pong");
    // A replica set requested by name may still be created, so the source waits for it.
    let uri = format!("mongodb://{}/d?replicaSet=rs0&serverSelectionTimeoutMS=500", mongod.addr());
    let broker = TestBroker::start(&source(&uri, ""));
    let line = broker.wait_for_log("the change stream is interrupted");
    assert!(line.contains("replica set of the name"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_wrong_password_is_reported_but_not_shown() {
    let mongod = Mongod::standalone(&["--auth"]).await;
    let admin = mongod.direct().await.database("admin");
    admin.run_command(doc! { "createUser": "reader", "pwd": "right", "roles": [] }).await.unwrap();
    let uri = |password: &str| format!("mongodb://reader:{password}@{}/d?authSource=admin", mongod.addr());
    let broker = TestBroker::start(&source(&uri("s3cret-and-wrong"), ""));
    let line = broker.wait_for_log("a source has stopped");
    assert!(line.contains("refuses user name or password"), "{line}");
    assert!(!broker.log().contains("s3cret"), "{}", broker.log());
    let broker = TestBroker::start(&source(&uri("right"), ""));
    let line = broker.wait_for_log("a source has stopped");
    assert!(line.contains("may not watch this database"), "{line}");
    assert!(!broker.log().contains("right@"), "{}", broker.log());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn a_missing_required_pre_image_is_reported_with_advice() {
    let set = shared().await;
    let client = set.client().await;
    let documents = super::collection(&client, "images", "c");
    documents.insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut broker = prepare(&source(&set.uri("images"), "full_document_before_change = \"required\""));
    run(&mut broker);
    wait_until_watching(&broker);
    documents.delete_one(doc! { "_id": 1 }).await.unwrap();
    let line = broker.wait_for_log("a source has stopped");
    assert!(line.contains("changeStreamPreAndPostImages"), "{line}");
}
