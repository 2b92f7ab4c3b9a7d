//! Limits of the configuration that a client can reach.

use herald_tests::{PATIENCE, Telnet, TestBroker, delivery, publish};
use std::time::Instant;

#[test]
fn a_full_server_greets_reports_its_limit_and_closes() {
    let broker = TestBroker::start("[transports.tcp]\nmax_connections = 2\n");
    let (mut one, two) = (broker.telnet(), broker.telnet());
    let mut three = Telnet::connect_raw(broker.addr());
    three.send("ping");
    let lines = three.rest();
    assert_eq!(lines, ["Successfully connected to message_broker", "error: server is full: 2 connections"]);
    one.asks("ping", "pong");
    drop(two);
    let began = Instant::now();
    loop {
        let mut again = Telnet::connect_raw(broker.addr());
        again.send("quit");
        if again.rest().last().is_some_and(|line| line == "bye") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "a closed connection frees its slot");
    }
}

#[test]
fn a_full_subscription_refuses_events_with_an_error() {
    let broker = TestBroker::start("[topics.\"t\"]\nmax_waiting = 2\n");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true,"replies":"quiet"}"#).starts_with("hello"));
    client.asks("sub u", "successfully subscribed to topic u");
    client.asks("sub t s", "successfully subscribed to topic t");
    let mut publisher = broker.telnet();
    assert!(publisher.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    publisher.asks(&publish("t", "a", 0), "published t a synced");
    publisher.asks(&publish("t", "b", 0), "published t b synced");
    let answer = publisher.ask(&publish("t", "c", 9));
    assert!(answer.starts_with("error: topic t is full: "), "{answer}");
    publisher.asks(&publish("t", "b", 9), "replaced t b synced");
    client.expect(&delivery("t", "a", 0));
    client.send("ack t a");
    client.expect(&delivery("t", "b", 9));
    publisher.asks(&publish("t", "c", 9), "published t c synced");
}

#[test]
fn topics_are_not_created_if_auto_create_is_off() {
    let broker = TestBroker::start("[topics.\"*\"]\nauto_create = false\n[topics.\"known\"]\nauto_create = true\n");
    let mut client = broker.telnet();
    client.asks("sub known", "successfully subscribed to topic known");
    let answer = client.ask("sub other");
    assert!(answer.starts_with("error: unknown topic \"other\""), "{answer}");
    let answer = client.ask("pub other {}");
    assert!(answer.starts_with("error: unknown topic \"other\""), "{answer}");
}

#[test]
fn topics_and_subscriptions_are_bounded() {
    let broker = TestBroker::start("[broker]\nmax_topics = 3\nmax_subscriptions = 2\nshards = 1\n");
    let mut client = broker.telnet();
    client.asks("sub a", "successfully subscribed to topic a");
    client.asks("sub b", "successfully subscribed to topic b");
    let answer = client.ask("sub c");
    assert!(answer.starts_with("error: ") && answer.contains('2'), "{answer}");
    for n in 0..50 {
        // Empty topics are forgotten to make room for new ones.
        client.send(&publish(&format!("t{n}"), "x", 0));
    }
    client.nothing();
    client.asks("unsub b", "successfully unsubscribe from topic b");
    client.asks("sub c", "successfully subscribed to topic c");
}

#[test]
fn a_silent_connection_is_closed_after_the_idle_timeout() {
    let broker = TestBroker::start("[transports.tcp]\nidle_timeout_ms = 1500\n");
    let mut client = broker.telnet();
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(400));
        client.asks("ping", "pong");
    }
    assert_eq!(client.try_line(), None);
}
