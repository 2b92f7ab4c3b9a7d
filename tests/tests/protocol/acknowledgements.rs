//! Several ids, all at once, giving back, time-outs.

use herald_tests::{TestBroker, delivery, publish, redelivery};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

#[test]
fn several_ids_are_answered_in_order_and_then_comes_what_is_next() {
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
        "acknowledged from logs ev_id=c".into(),
        "acknowledged from logs ev_id=a".into(),
        delivery("t", "d", 0),
    ]);
    client.send("ack t d");
    client.expect_all(&["acknowledged from logs ev_id=d", "no available message"]);
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
    // Among several words a star is the id that it may be.
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
    // The reference's clients repeat what is answered with an error, and for the second delivery it would be one for ever.
    client.expect_all(&[
        "acknowledged from logs ev_id=x",
        "no available message",
        "acknowledged from logs ev_id=x",
        "no_event_error: x",
    ]);
    // What was given back knowingly is not owed.
    client.asks(&publish("t", "y", 0), &delivery("t", "y", 0));
    client.asks("nack t y", "requeued ev_id=y");
    client.expect(&redelivery("t", "y", 0, 1));
    client.send_raw(b"ack t y\nack t y\n");
    client.expect_all(&["acknowledged from logs ev_id=y", "no available message", "no_event_error: y"]);
}

#[test]
fn a_nack_brings_the_event_back_at_its_place() {
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
fn an_event_that_waits_for_its_delay_takes_nobodys_prefetch() {
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
fn what_has_gone_back_to_the_queue_can_be_acknowledged_late() {
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
fn a_time_out_takes_an_event_back_and_touch_starts_it_again() {
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
