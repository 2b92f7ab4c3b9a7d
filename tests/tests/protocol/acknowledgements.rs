//! `ack` with several ids and `*`, `nack`, and timeouts.

use herald_tests::{TestBroker, delivery, publish, redelivery};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

#[test]
fn several_ids_are_answered_in_order_before_the_next_delivery() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"prefetch":2}"#).starts_with("hello"));
    client.asks("sub t", SUBSCRIBED);
    for id in ["a", "b", "c", "d"] {
        client.send(&publish("t", id, 0));
    }
    client.expect_all(&[delivery("t", "a", 0), delivery("t", "b", 0)]);
    client.nothing();
    client.send("ack t b x c a");
    client.expect_all(&[
        "acknowledged from logs ev_id=b".into(),
        "no_event_error: x".into(),
        "no_event_error: c".into(),
        "acknowledged from logs ev_id=a".into(),
        delivery("t", "c", 0),
        delivery("t", "d", 0),
    ]);
    client.send("ack t c d");
    client.expect_all(&["acknowledged from logs ev_id=c", "acknowledged from logs ev_id=d", "no available message"]);
}

#[test]
fn a_star_acknowledges_what_is_in_flight_here() {
    let broker = TestBroker::start("");
    let (mut client, mut other) = (broker.telnet(), broker.telnet());
    assert!(client.ask(r#"hello {"prefetch":3}"#).starts_with("hello"));
    other.asks("sub t s", SUBSCRIBED);
    other.send(&publish("t", "theirs", 9));
    other.expect(&delivery("t", "theirs", 9));
    client.asks("sub t s", SUBSCRIBED);
    client.asks("ack t *", "acknowledged 0 events");
    for id in ["a", "b", "c", "d"] {
        client.send(&publish("t", id, 0));
    }
    client.expect_all(&[delivery("t", "a", 0), delivery("t", "b", 0), delivery("t", "c", 0)]);
    client.nothing();
    client.send("ack t *");
    client.expect_all(&["acknowledged 3 events".into(), delivery("t", "d", 0)]);
    client.send("ack t *");
    client.expect_all(&["acknowledged 1 events", "no available message"]);
    other.send("ack t theirs");
    other.expect_all(&["acknowledged from logs ev_id=theirs", "no available message"]);
    // Among several ids, a star is an ordinary id.
    client.send("ack t * a");
    client.expect_all(&["no_event_error: *", "no_event_error: a"]);
}

#[test]
fn each_of_two_deliveries_may_be_acknowledged_although_the_event_is_settled_once() {
    let broker = TestBroker::start("[topics.t]\nack_timeout_ms = 1500\n");
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.asks(&publish("t", "x", 0), &delivery("t", "x", 0));
    client.expect(&redelivery("t", "x", 0, 1));
    client.send_raw(b"ack t x\nack t x\nack t x\n");
    // The reference's clients repeat an acknowledgement answered with an error, and would repeat the second one indefinitely.
    client.expect_all(&[
        "acknowledged from logs ev_id=x",
        "no available message",
        "acknowledged from logs ev_id=x",
        "no_event_error: x",
    ]);
    // A delivery that the client itself gave back needs no acknowledgement.
    client.asks(&publish("t", "y", 0), &delivery("t", "y", 0));
    client.asks("nack t y", "requeued ev_id=y");
    client.expect(&redelivery("t", "y", 0, 1));
    client.send_raw(b"ack t y\nack t y\n");
    client.expect_all(&["acknowledged from logs ev_id=y", "no available message", "no_event_error: y"]);
}

#[test]
fn a_nacked_event_returns_to_its_place_in_the_order() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", SUBSCRIBED);
    for id in ["a", "b"] {
        client.send(&publish("t", id, 0));
    }
    client.expect(&delivery("t", "a", 0));
    client.nothing();
    client.send("nack t a");
    client.expect_all(&["requeued ev_id=a".into(), redelivery("t", "a", 0, 1)]);
    client.send(&publish("t", "urgent", 5));
    client.nothing();
    client.send("nack t a 0");
    client.expect_all(&["requeued ev_id=a".into(), delivery("t", "urgent", 5)]);
    client.send("ack t urgent");
    client.expect_all(&["acknowledged from logs ev_id=urgent".into(), redelivery("t", "a", 0, 2)]);
    client.asks("nack t b", "no_event_error: b");
    client.asks("nack t x", "no_event_error: x");
    client.asks("nack u a", "error: not a topic u subscriber");
    assert!(client.ask("nack t a -1").starts_with("error: invalid delay \"-1\": "));
}

#[test]
fn a_delayed_event_uses_no_prefetch() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", SUBSCRIBED);
    client.send(&publish("t", "a", 9));
    client.expect(&delivery("t", "a", 9));
    let began = std::time::Instant::now();
    client.asks("nack t a 1500", "requeued ev_id=a");
    client.send(&publish("t", "b", 0));
    client.expect(&delivery("t", "b", 0));
    client.send("ack t b");
    client.expect_all(&["acknowledged from logs ev_id=b", "no available message"]);
    client.expect(&redelivery("t", "a", 9, 1));
    assert!(began.elapsed().as_millis() >= 1500);
}

#[test]
fn a_requeued_event_can_be_acknowledged_late() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    client.asks("nack t a 100000", "requeued ev_id=a");
    client.asks("ack t a", "acknowledged from logs ev_id=a");
    client.nothing();
}

#[test]
fn a_timeout_requeues_an_event_and_touch_restarts_it() {
    let broker = TestBroker::start("[topics.\"*\"]\nack_timeout_ms = 2000\n");
    let mut client = broker.telnet();
    client.asks("sub t", SUBSCRIBED);
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    let began = std::time::Instant::now();
    std::thread::sleep(std::time::Duration::from_millis(1000));
    client.asks("touch t a", "touched ev_id=a");
    client.asks("touch t x", "no_event_error: x");
    client.expect(&redelivery("t", "a", 0, 1));
    assert!(began.elapsed().as_millis() >= 3000, "{:?}", began.elapsed());
}

#[test]
fn an_undelivered_event_cannot_be_acknowledged() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.asks(&publish("t", "p", 0), &delivery("t", "p", 0));
    client.send(&publish("t", "q", 0));
    client.asks("ack t q", "no_event_error: q");
    client.asks("ack t q", "error: event q is no longer held here");
    client.send("ack t p");
    client.expect_all(&["acknowledged from logs ev_id=p".into(), delivery("t", "q", 0)]);
    client.send("ack t q");
    client.expect_all(&["acknowledged from logs ev_id=q", "no available message"]);
    client.asks("ack t q", "no_event_error: q");
}

#[test]
fn acknowledging_a_replaced_version_leaves_the_new_one() {
    let broker = TestBroker::start("");
    let (mut client, mut publisher) = (broker.telnet(), broker.telnet());
    assert!(publisher.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    publisher.asks(&publish("t", "x", 0), "published t x synced");
    client.expect(&delivery("t", "x", 0));
    client.asks("quit", "bye");
    publisher.asks(&publish("t", "urgent", 9), "published t urgent synced");
    publisher.asks(&publish("t", "x", 0), "replaced t x synced");
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.expect(&delivery("t", "urgent", 9));
    client.asks("ack t x", "no_event_error: x");
    client.send("ack t urgent");
    client.expect_all(&["acknowledged from logs ev_id=urgent".into(), delivery("t", "x", 0)]);
}

#[test]
fn a_late_acknowledgement_of_a_dead_or_purged_event_is_answered_so_that_clients_stop_repeating_it() {
    let broker =
        TestBroker::start("[topics.t]\nack_timeout_ms = 300\nmax_deliveries = 1\n[topics.u]\nack_timeout_ms = 300\n");
    let (mut client, mut other) = (broker.telnet(), broker.telnet());
    client.asks("sub t s", SUBSCRIBED);
    client.asks(&publish("t", "x", 0), &delivery("t", "x", 0));
    other.asks("sub t.dead dead", "successfully subscribed to topic t.dead");
    assert!(other.line().contains(r#""reason":"max_deliveries""#));
    client.asks("ack t x", "no_event_error: x");
    client.asks("ack t x", "error: event x is no longer held here");
    client.asks("sub u s", "successfully subscribed to topic u");
    client.asks(&publish("u", "y", 0), &delivery("u", "y", 0));
    client.expect(&redelivery("u", "y", 0, 1));
    client.asks("unsub u s", "successfully unsubscribe from topic u");
    client.asks("ack u y", "error: not a topic u subscriber");
}
