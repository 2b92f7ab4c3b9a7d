//! The commands of the reference broker.

use herald_tests::{TestBroker, delivery, publish};

#[test]
fn the_greeting_comes_before_anything_else() {
    let broker = TestBroker::start("");
    let mut client = herald_tests::Telnet::connect_raw(broker.addr());
    client.send("sub tweets");
    client.expect_all(&["Successfully connected to message_broker", "successfully subscribed to topic tweets"]);
}

#[test]
fn publish_subscribe_acknowledge_and_unsubscribe_are_answered_like_the_reference() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    let mut publisher = broker.telnet();
    client.asks("sub tweets", "successfully subscribed to topic tweets");
    client.asks("sub tweets", "successfully subscribed to topic tweets");
    publisher.send(r#"pub tweets {"id":"042","priority":3,"msg":"any JSON value"}"#);
    client.expect(r#"{"topic":"tweets","priority":3,"msg":"any JSON value","id":"042"}"#);
    publisher.nothing();
    client.asks("ack tweets 042", "acknowledged from logs ev_id=042");
    client.expect("no available message");
    client.asks("ack tweets 042", "no_event_error: 042");
    client.asks("ack users 042", "error: not a topic users subscriber");
    client.asks("unsub tweets", "successfully unsubscribe from topic tweets");
    client.asks("unsub tweets", "successfully unsubscribe from topic tweets");
    client.asks("ack tweets 042", "error: not a topic tweets subscriber");
    publisher.send(&publish("tweets", "1", 0));
    publisher.nothing();
    client.nothing();
}

#[test]
fn one_event_at_a_time_is_in_flight_and_the_most_urgent_comes_next() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    let mut publisher = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    publisher.send(&publish("t", "first", 0));
    client.expect(&delivery("t", "first", 0));
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello {"));
    for (id, priority) in [("low", -5), ("mid1", 3), ("high", 2_147_483_647), ("mid2", 3), ("lowest", -2_147_483_648)] {
        publisher.asks(&publish("t", id, priority), &format!("published t {id} synced"));
    }
    client.nothing();
    let mut last = "first";
    for (id, priority) in [("high", 2_147_483_647), ("mid1", 3), ("mid2", 3), ("low", -5), ("lowest", -2_147_483_648)] {
        client.send(&format!("ack t {last}"));
        client.expect_all(&[format!("acknowledged from logs ev_id={last}"), delivery("t", id, priority)]);
        last = id;
    }
    client.send("ack t lowest");
    client.expect_all(&["acknowledged from logs ev_id=lowest", "no available message"]);
}

#[test]
fn a_subscription_gets_events_published_after_its_creation() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send(&publish("t", "before", 0));
    client.asks("sub t", "successfully subscribed to topic t");
    client.nothing();
    client.send(&publish("t", "after", 0));
    client.expect(&delivery("t", "after", 0));
}

#[test]
fn every_subscription_gets_every_event_and_a_connection_may_have_many_topics() {
    let broker = TestBroker::start("");
    let (mut one, mut two) = (broker.telnet(), broker.telnet());
    one.asks("sub t", "successfully subscribed to topic t");
    two.asks("sub t", "successfully subscribed to topic t");
    two.asks("sub u", "successfully subscribed to topic u");
    one.send(&publish("t", "a", 0));
    one.expect(&delivery("t", "a", 0));
    two.expect(&delivery("t", "a", 0));
    one.send(&publish("u", "a", 0));
    two.expect(&delivery("u", "a", 0));
    two.asks("ack u a", "acknowledged from logs ev_id=a");
    two.expect("no available message");
    two.asks("ack t a", "acknowledged from logs ev_id=a");
    two.expect("no available message");
}

#[test]
fn acknowledging_an_event_that_was_never_delivered_changes_nothing() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    client.send(&publish("t", "b", 0));
    client.send(&publish("t", "c", 0));
    client.nothing();
    client.asks("ack t b", "no_event_error: b");
    client.nothing();
    client.send("ack t a");
    client.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 0)]);
}

#[test]
fn a_nameless_subscription_ends_with_its_connection() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    client.asks("quit", "bye");
    assert_eq!(client.try_line(), None);
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    client.nothing();
}
