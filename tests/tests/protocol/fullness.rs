//! Full topics, and refused publishes that leave nothing behind.

use herald_tests::{Telnet, TestBroker, delivery, publish};

fn subscriber(broker: &TestBroker, name: &str) -> Telnet {
    let mut client = broker.telnet();
    client.asks(&format!("sub t {name}"), "successfully subscribed to topic t");
    client
}

fn confirmed(broker: &TestBroker) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client
}

#[test]
fn an_event_that_does_not_fit_one_subscription_is_delivered_to_none() {
    let broker = TestBroker::start("[topics.t]\nmax_waiting = 2\n");
    let (mut slow, mut quick) = (subscriber(&broker, "slow"), subscriber(&broker, "quick"));
    let mut publisher = confirmed(&broker);
    for id in ["a", "b"] {
        publisher.asks(&publish("t", id, 0), &format!("published t {id} synced"));
        quick.expect(&delivery("t", id, 0));
        quick.send(&format!("ack t {id}"));
        quick.expect_all(&[format!("acknowledged from logs ev_id={id}"), "no available message".into()]);
    }
    slow.expect(&delivery("t", "a", 0));
    let answer = publisher.ask(&publish("t", "c", 9));
    assert!(answer.starts_with("error: topic t is full: ") && answer.contains("\"slow\""), "{answer}");
    quick.nothing();
    // Events in flight count, and so do delayed ones.
    slow.asks("nack t a 600000", "requeued ev_id=a");
    slow.expect(&delivery("t", "b", 0));
    assert!(publisher.ask(&publish("t", "c", 9)).starts_with("error: topic t is full: "));
    // Settling an event makes room.
    slow.asks("ack t a", "acknowledged from logs ev_id=a");
    publisher.asks(&publish("t", "c", 9), "published t c synced");
    quick.expect(&delivery("t", "c", 9));
    slow.send("ack t b");
    slow.expect_all(&["acknowledged from logs ev_id=b".into(), delivery("t", "c", 9)]);
}

#[test]
fn a_refused_publish_is_reported_even_without_confirmations_and_does_not_appear_after_a_kill() {
    let mut broker = TestBroker::start("[topics.t]\nmax_waiting = 1\n");
    let mut client = subscriber(&broker, "s");
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    let answer = client.ask(&publish("t", "b", 0));
    assert!(answer.starts_with("error: topic t is full: "), "{answer}");
    broker.kill();
    broker.run();
    let mut client = subscriber(&broker, "s");
    client.expect(&delivery("t", "a", 0));
    assert!(
        client.ask(&publish("t", "b", 0)).starts_with("error: topic t is full: "),
        "the limit holds after a restart"
    );
    client.send("ack t a");
    client.expect_all(&["acknowledged from logs ev_id=a", "no available message"]);
}

#[test]
fn a_replacement_needs_no_room_and_a_burst_fills_to_the_limit_exactly() {
    let broker = TestBroker::start("[topics.t]\nmax_waiting = 100\n");
    let mut client = subscriber(&broker, "s");
    client.asks("detach t", "detached from topic t");
    let mut publisher = confirmed(&broker);
    let burst: String = (0..150).map(|n| publish("t", &n.to_string(), 0) + "\n").collect();
    publisher.send_raw(burst.as_bytes());
    for n in 0..100 {
        publisher.expect(&format!("published t {n} synced"));
    }
    for _ in 100..150 {
        let line = publisher.line();
        assert!(line.starts_with("error: topic t is full: "), "{line}");
    }
    publisher.asks(&publish("t", "50", 3), "replaced t 50 synced");
    broker.wait_for_figures("t", &[("waiting", 100)]);
}

#[test]
fn bytes_are_bounded_as_events_are() {
    let broker = TestBroker::start("[topics.t]\nmax_waiting_bytes = 1000\n");
    let mut client = subscriber(&broker, "s");
    let event = |id: &str, length| format!("pub t {{\"id\":\"{id}\",\"msg\":\"{}\"}}", "x".repeat(length));
    let line = |id: &str, length| {
        format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":\"{}\",\"id\":\"{id}\"}}", "x".repeat(length))
    };
    client.asks(&event("a", 600), &line("a", 600));
    assert!(client.ask(&event("b", 600)).starts_with("error: topic t is full: "));
    assert!(client.ask(&event("c", 2000)).starts_with("error: topic t is full: "), "an event that can never fit");
    client.send("ack t a");
    client.expect_all(&["acknowledged from logs ev_id=a", "no available message"]);
    client.asks(&event("b", 600), &line("b", 600));
}

#[test]
fn a_topic_that_may_not_be_created_leaves_nothing_behind() {
    let broker = TestBroker::start("[topics.\"*\"]\nauto_create = false\n[topics.\"known\"]\n");
    let mut client = broker.telnet();
    for command in ["sub t", "sub t s", "pub t {}", "pub t nonsense"] {
        let answer = client.ask(command);
        assert!(answer.starts_with("error: unknown topic \"t\"") || command == "pub t nonsense", "{command}: {answer}");
        assert!(answer.starts_with("error: "), "{command}: {answer}");
    }
    client.asks("unsub t", "successfully unsubscribe from topic t");
    client.asks("detach t", "detached from topic t");
    client.asks("sub known s", "successfully subscribed to topic known");
    let topics = client.ask("topics");
    assert!(topics.starts_with(r#"[{"topic":"known","#) && !topics.contains(r#""topic":"t""#), "{topics}");
}
