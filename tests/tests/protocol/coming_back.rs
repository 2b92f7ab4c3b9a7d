//! Redelivery: which events come back, when, where in the order, and how they are counted, restarts included.

use std::time::{Duration, Instant};

use herald_tests::{TestBroker, delivery, publish, redelivery};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

/// How an event in flight is lost by its connection or the whole broker.
enum Loss {
    Nack,
    Detach,
    Connection,
    TimeOut,
    Stop,
    Kill,
}

#[test]
fn however_an_older_event_returns_its_successor_replaces_it() {
    for loss in [Loss::Nack, Loss::Detach, Loss::Connection, Loss::TimeOut, Loss::Stop, Loss::Kill] {
        let timeout = if matches!(loss, Loss::TimeOut) { 1000 } else { 0 };
        let mut broker = TestBroker::start(&format!("[topics.t]\nack_timeout_ms = {timeout}\n"));
        let (mut client, mut publisher) = (broker.telnet(), broker.telnet());
        assert!(publisher.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
        client.asks("sub t s", SUBSCRIBED);
        publisher.asks(&publish("t", "x", 9), "published t x synced");
        client.expect(&delivery("t", "x", 9));
        publisher.asks(&publish("t", "x", 1), "published t x synced");
        publisher.asks(&publish("t", "last", 1), "published t last synced");
        match loss {
            Loss::Nack => client.asks("nack t x", "requeued ev_id=x"),
            Loss::Detach => {
                client.asks("detach t", "detached from topic t");
                client.asks("sub t s", SUBSCRIBED);
            }
            Loss::TimeOut => {}
            Loss::Connection => {
                client.send("quit");
                broker.wait_for_figures("t", &[("connections", 0)]);
                client = broker.telnet();
                client.asks("sub t s", SUBSCRIBED);
            }
            Loss::Stop | Loss::Kill => {
                if matches!(loss, Loss::Kill) {
                    broker.kill();
                } else {
                    assert!(broker.terminate().success());
                }
                broker.run();
                client = broker.telnet();
                client.asks("sub t s", SUBSCRIBED);
            }
        }
        client.expect(&delivery("t", "x", 1));
        client.send("ack t x");
        client.expect_all(&["acknowledged from logs ev_id=x".into(), delivery("t", "last", 1)]);
        client.send("ack t last");
        client.expect_all(&["acknowledged from logs ev_id=last", "no available message"]);
        // Nothing of the older version is left, including its returned delivery.
        client.asks("ack t x", "no_event_error: x");
    }
}

#[test]
fn counts_priority_and_place_survive_an_orderly_stop_and_a_kill() {
    let mut broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    for id in ["a", "b", "c"] {
        client.send(&publish("t", id, 1));
    }
    client.expect(&delivery("t", "a", 1));
    client.send("nack t a");
    client.expect_all(&["requeued ev_id=a".into(), redelivery("t", "a", 1, 1)]);
    client.send("nack t a");
    client.expect_all(&["requeued ev_id=a".into(), redelivery("t", "a", 1, 2)]);
    assert!(broker.terminate().success());
    broker.run();
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.expect(&redelivery("t", "a", 1, 3));
    broker.kill();
    broker.run();
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    let line = client.line();
    assert!(
        [redelivery("t", "a", 1, 3), redelivery("t", "a", 1, 4)].contains(&line),
        "only the delivery interrupted by the kill may be uncounted: {line}"
    );
    client.send("ack t a");
    client.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 1)]);
}

#[test]
fn delays_and_times_to_live_survive_a_kill() {
    let mut broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    client.asks("detach t", "detached from topic t");
    let began = Instant::now();
    client.asks(r#"pub t {"id":"late","priority":9,"msg":"m","delay_ms":2500}"#, "published t late synced");
    client.asks(r#"pub t {"id":"short","priority":8,"msg":"m","ttl_ms":1}"#, "published t short synced");
    client.asks(r#"pub t {"id":"long","priority":7,"msg":"m","ttl_ms":600000}"#, "published t long synced");
    broker.kill();
    broker.run();
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.expect(&delivery("t", "long", 7));
    client.send("ack t long");
    client.expect("acknowledged from logs ev_id=long");
    // The event is still delayed, unless this machine is very slow.
    let line = client.line();
    if line == "no available message" {
        client.expect(&delivery("t", "late", 9));
    } else {
        assert_eq!(line, delivery("t", "late", 9));
    }
    assert!(began.elapsed() >= Duration::from_millis(2500), "{:?}", began.elapsed());
    client.send("ack t late");
    client.expect_all(&["acknowledged from logs ev_id=late", "no available message"]);
}

#[test]
fn a_due_event_counts_as_waiting_without_any_consumer_since_the_start() {
    let mut broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    client.send(&publish("t", "back", 0));
    let mut seen = [client.line(), client.line()];
    seen.sort();
    assert_eq!(seen, ["published t back synced".to_owned(), delivery("t", "back", 0)]);
    client.asks("nack t back 1000", "requeued ev_id=back");
    client.asks(r#"pub t {"id":"new","delay_ms":1000}"#, "published t new synced");
    broker.kill();
    broker.run();
    broker.wait_for_figures("t", &[("waiting", 2), ("delayed", 0)]);
}

#[test]
fn the_smaller_time_to_live_applies_and_pauses_while_in_flight() {
    let broker = TestBroker::start("[topics.t]\nttl_ms = 300\n[topics.u]\nttl_ms = 600000\n");
    let mut client = broker.telnet();
    client.asks("sub t", SUBSCRIBED);
    client.asks("sub u", "successfully subscribed to topic u");
    client.send(&publish("t", "flies", 9));
    client.expect(&delivery("t", "flies", 9));
    client.send(&publish("u", "flies", 9));
    client.expect(&delivery("u", "flies", 9));
    client.send(r#"pub t {"id":"longer","msg":"m","ttl_ms":600000}"#);
    client.send(r#"pub t {"id":"none","msg":"m","ttl_ms":0}"#);
    client.send(r#"pub u {"id":"shorter","msg":"m","ttl_ms":300}"#);
    client.send(r#"pub u {"id":"none","msg":"m","ttl_ms":0}"#);
    client.asks("ping", "pong");
    // The test is about elapsed time.
    std::thread::sleep(Duration::from_millis(400));
    client.send("nack t flies");
    client.expect_all(&["requeued ev_id=flies".into(), redelivery("t", "flies", 9, 1)]);
    client.send("ack t flies");
    client.expect_all(&["acknowledged from logs ev_id=flies", "no available message"]);
    client.send("ack u flies");
    client.expect_all(&["acknowledged from logs ev_id=flies".into(), delivery("u", "none", 0)]);
    broker.wait_for_figures("t", &[("expired", 2), ("acknowledged", 1), ("waiting", 0), ("in_flight", 0)]);
    broker.wait_for_figures("u", &[("expired", 1), ("acknowledged", 1), ("waiting", 0), ("in_flight", 1)]);
}

#[test]
fn repeating_a_subscribe_changes_nothing() {
    let broker = TestBroker::start("");
    for name in ["", " s"] {
        let mut client = broker.telnet();
        client.asks(&format!("sub t{name}"), SUBSCRIBED);
        client.send(&publish("t", "a", 0));
        client.send(&publish("t", "b", 0));
        client.expect(&delivery("t", "a", 0));
        client.asks(&format!("sub t{name}"), SUBSCRIBED);
        client.nothing();
        client.send("ack t a");
        client.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 0)]);
        client.send("ack t b");
        client.expect_all(&["acknowledged from logs ev_id=b", "no available message"]);
    }
}

#[test]
fn removing_another_subscription_of_the_topic_keeps_ones_own() {
    let broker = TestBroker::start("");
    let (mut one, mut two) = (broker.telnet(), broker.telnet());
    one.asks("sub t mine", SUBSCRIBED);
    two.asks("sub t other", SUBSCRIBED);
    one.asks("unsub t other", "successfully unsubscribe from topic t");
    two.expect("error: subscription \"other\" of topic t was removed");
    one.asks("unsub t never-was", "successfully unsubscribe from topic t");
    one.send(&publish("t", "a", 0));
    one.expect(&delivery("t", "a", 0));
    two.nothing();
    two.asks("sub t other", SUBSCRIBED);
    two.nothing();
}

#[test]
fn a_removed_subscription_stays_removed_after_a_kill() {
    let mut broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    client.asks("detach t", "detached from topic t");
    client.asks(&publish("t", "a", 0), "published t a synced");
    client.asks("unsub t s", "successfully unsubscribe from topic t");
    broker.kill();
    broker.run();
    let mut client = broker.telnet();
    client.asks("sub t s", SUBSCRIBED);
    client.nothing();
}
