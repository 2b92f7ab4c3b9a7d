//! Publishing an id again.

use herald_tests::{TestBroker, delivery, publish};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

#[test]
fn publishing_an_id_again_replaces_the_waiting_event() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks("sub t", SUBSCRIBED);
    client.send(&publish("t", "head", 9));
    let mut seen = [client.line(), client.line()];
    seen.sort();
    assert_eq!(seen, ["published t head synced".to_owned(), delivery("t", "head", 9)]);
    client.asks(&publish("t", "x", 5), "published t x synced");
    client.asks(&publish("t", "y", 1), "published t y synced");
    client.asks(&publish("t", "x", 1), "replaced t x synced");
    client.send("ack t head");
    client.expect_all(&["acknowledged from logs ev_id=head".into(), delivery("t", "y", 1)]);
    client.send("ack t y");
    client.expect_all(&["acknowledged from logs ev_id=y".into(), delivery("t", "x", 1)]);
    client.send("ack t x");
    client.expect_all(&["acknowledged from logs ev_id=x", "no available message"]);
}

#[test]
fn a_successor_waits_behind_the_event_in_flight_and_replaces_it_if_it_comes_back() {
    let broker = TestBroker::start("");
    let (mut client, mut other, mut publisher) = (broker.telnet(), broker.telnet(), broker.telnet());
    assert!(publisher.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    assert!(client.ask(r#"hello {"prefetch":5}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    publisher.asks(&publish("t", "x", 0), "published t x synced");
    client.expect(&delivery("t", "x", 0));
    publisher.asks(&publish("t", "x", 7), "published t x synced");
    other.asks("sub t s", SUBSCRIBED);
    client.nothing();
    other.nothing();
    client.send("ack t x");
    client.expect("acknowledged from logs ev_id=x");
    let successor = delivery("t", "x", 7);
    // Either connection may get the event, which determines the answer to the one that acknowledged.
    publisher.asks("ping", "pong");
    client.send("ping");
    let line = client.line();
    if line == successor {
        client.expect("pong");
        publisher.asks(&publish("t", "x", 8), "published t x synced");
        client.send("nack t x");
        client.expect("requeued ev_id=x");
    } else {
        assert!(line == "no available message" || line == "pong", "{line}");
        if line != "pong" {
            client.expect("pong");
        }
        other.expect(&successor);
        publisher.asks(&publish("t", "x", 8), "published t x synced");
        other.send("nack t x");
        other.expect("requeued ev_id=x");
    }
    let mut third = broker.telnet();
    publisher.send(&format!("topics\r\n{}", publish("t", "end", -1)));
    let topics = publisher.line();
    assert!(topics.contains("\"waiting\":0,\"in_flight\":1"), "the returned event is replaced: {topics}");
    third.asks("ping", "pong");
}

#[test]
fn a_duplicate_is_refused_if_configured() {
    let broker = TestBroker::start("[topics.\"t\"]\nduplicate_id = \"reject\"\n");
    let mut client = broker.telnet();
    client.asks("sub t", SUBSCRIBED);
    client.send(&publish("t", "x", 0));
    client.expect(&delivery("t", "x", 0));
    client.asks(&publish("t", "x", 1), "error: duplicate id x");
    client.send("ack t x");
    client.expect_all(&["acknowledged from logs ev_id=x", "no available message"]);
    client.send(&publish("t", "x", 2));
    client.expect(&delivery("t", "x", 2));
}

#[test]
fn duplicates_are_kept_if_configured_and_ack_settles_the_one_delivered_first() {
    let broker = TestBroker::start("[topics.\"*\"]\nduplicate_id = \"keep\"\n");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"prefetch":2}"#).starts_with("hello"));
    client.asks("sub t", SUBSCRIBED);
    client.send(r#"pub t {"id":"x","msg":1}"#);
    client.expect(r#"{"topic":"t","priority":0,"msg":1,"id":"x"}"#);
    client.send(r#"pub t {"id":"x","msg":2}"#);
    client.expect(r#"{"topic":"t","priority":0,"msg":2,"id":"x"}"#);
    client.asks("ack t x", "acknowledged from logs ev_id=x");
    client.send("nack t x");
    client.expect_all(&["requeued ev_id=x", r#"{"topic":"t","priority":0,"msg":2,"id":"x","redelivered":1}"#]);
}
