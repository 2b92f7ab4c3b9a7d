//! Durable and shared subscriptions.

use herald_tests::{TestBroker, delivery, id_of, publish, redelivery};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

#[test]
fn a_named_subscription_outlives_its_connection_and_the_broker() {
    let mut broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    // Confirmed, so that all three can be delivered even if the disk is slow.
    let mut publisher = broker.telnet();
    assert!(publisher.ask(r#"hello {"confirm":true}"#).starts_with("hello {"));
    for id in ["a", "b", "c"] {
        publisher.asks(&publish("t", id, 0), &format!("published t {id} synced"));
    }
    client.expect(&delivery("t", "a", 0));
    client.asks("quit", "bye");
    broker.wait_for_figures("t", &[("connections", 0)]);
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.expect(&redelivery("t", "a", 0, 1));
    client.send("ack t a");
    client.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 0)]);
    assert!(broker.terminate().success());
    broker.run();
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.expect(&redelivery("t", "b", 0, 1));
    client.send("nack t b 100000");
    client.expect_all(&["requeued ev_id=b".into(), delivery("t", "c", 0)]);
    broker.kill();
    broker.run();
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    let line = client.line();
    assert!(
        line == delivery("t", "c", 0),
        "a delivery interrupted by the crash is not counted, and a delay survives: {line}"
    );
    client.send("ack t c");
    client.expect_all(&["acknowledged from logs ev_id=c", "no available message"]);
    client.asks("ack t b", "acknowledged from logs ev_id=b");
}

#[test]
fn connections_that_share_a_subscription_get_each_event_once() {
    let broker = TestBroker::start("");
    let mut clients: Vec<_> = (0..3).map(|_| broker.telnet()).collect();
    for client in &mut clients {
        client.asks("sub t s", SUBSCRIBED);
    }
    let mut publisher = broker.telnet();
    for n in 0..3 {
        publisher.send(&publish("t", &n.to_string(), 0));
    }
    let mut ids: Vec<String> = clients.iter_mut().map(|client| id_of(&client.line())).collect();
    let first = ids[0].clone();
    clients[1].asks(&format!("ack t {first}"), &format!("no_event_error: {first}"));
    clients[0].send(&format!("ack t {first}"));
    clients[0].expect_all(&[format!("acknowledged from logs ev_id={first}"), "no available message".into()]);
    ids.sort();
    assert_eq!(ids, ["0", "1", "2"]);
    for client in &mut clients {
        client.nothing();
    }
    // When one connection closes, another with room gets its events.
    let lost = clients.pop().unwrap();
    drop(lost);
    let line = clients[0].line();
    assert!(line.ends_with(",\"redelivered\":1}"), "{line}");
}

#[test]
fn a_waiting_event_of_a_shared_subscription_cannot_be_settled_before_its_delivery() {
    let broker = TestBroker::start("");
    let (mut one, mut two) = (broker.telnet(), broker.telnet());
    one.asks("sub t s", SUBSCRIBED);
    one.send(&publish("t", "a", 0));
    one.expect(&delivery("t", "a", 0));
    two.asks("sub t s", SUBSCRIBED);
    one.send(&publish("t", "b", 0));
    two.expect(&delivery("t", "b", 0));
    one.send(&publish("t", "c", 0));
    one.nothing();
    two.asks("ack t c", "no_event_error: c");
    two.send("ack t b");
    two.expect_all(&["acknowledged from logs ev_id=b".to_owned(), delivery("t", "c", 0)]);
    one.send("ack t a");
    one.expect_all(&["acknowledged from logs ev_id=a", "no available message"]);
}

#[test]
fn a_connection_has_at_most_one_subscription_per_topic() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", SUBSCRIBED);
    client.asks("sub t s", "error: already subscribed to topic t as its own; unsub or detach first");
    client.asks("unsub t", "successfully unsubscribe from topic t");
    client.asks("sub t s", SUBSCRIBED);
    client.asks("sub t s", SUBSCRIBED);
    client.asks("sub t", "error: already subscribed to topic t as \"s\"; unsub or detach first");
    client.asks("sub t other", "error: already subscribed to topic t as \"s\"; unsub or detach first");
}

#[test]
fn detach_keeps_the_subscription_and_unsub_removes_it() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("detach t", "detached from topic t");
    client.asks("sub t s", SUBSCRIBED);
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    client.asks("detach t", "detached from topic t");
    client.asks("ack t a", "error: not a topic t subscriber");
    client.asks("sub t s", SUBSCRIBED);
    client.expect(&redelivery("t", "a", 0, 1));
    client.asks("unsub t", "successfully unsubscribe from topic t");
    client.asks("sub t s", SUBSCRIBED);
    client.nothing();
    client.asks("detach t", "detached from topic t");
    // A nameless subscription ends when it is detached.
    client.asks("sub t", SUBSCRIBED);
    client.send(&publish("t", "b", 0));
    client.expect(&delivery("t", "b", 0));
    client.asks("detach t", "detached from topic t");
    client.asks("sub t", SUBSCRIBED);
    client.nothing();
    client.asks("unsub t s", "successfully unsubscribe from topic t");
}

#[test]
fn attached_connections_are_notified_when_another_removes_the_subscription() {
    let broker = TestBroker::start("");
    let (mut one, mut two, mut other) = (broker.telnet(), broker.telnet(), broker.telnet());
    one.asks("sub t s", SUBSCRIBED);
    two.asks("sub t s", SUBSCRIBED);
    other.asks("unsub t s", "successfully unsubscribe from topic t");
    one.expect("error: subscription \"s\" of topic t was removed");
    two.expect("error: subscription \"s\" of topic t was removed");
    one.asks("ack t a", "error: not a topic t subscriber");
    one.asks("sub t s", SUBSCRIBED);
    one.asks("unsub t s", "successfully unsubscribe from topic t");
    one.nothing();
}
