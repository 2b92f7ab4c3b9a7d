//! Full topics that make room by dropping the least urgent event, or by moving it to the dead letters.

use herald_tests::{Telnet, TestBroker, delivery, publish};

fn confirmed(broker: &TestBroker) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client
}

fn durable(client: &mut Telnet, topic: &str, name: &str) {
    client.asks(&format!("sub {topic} {name}"), &format!("successfully subscribed to topic {topic}"));
    client.asks(&format!("detach {topic}"), &format!("detached from topic {topic}"));
}

#[track_caller]
fn waits(client: &mut Telnet, topic: &str, expected: &[(&str, i32)]) {
    client.send(&format!("peek {topic} 1000"));
    for (id, priority) in expected {
        client.expect(&delivery(topic, id, *priority));
    }
    client.expect("end of peek");
}

#[test]
fn the_least_urgent_oldest_event_makes_room_and_is_counted() {
    let mut broker = TestBroker::start("[topics.t]\nmax_waiting = 3\noverflow = \"drop-lowest\"\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    for (id, priority) in [("a", 0), ("b", 5), ("c", 0)] {
        client.asks(&publish("t", id, priority), &format!("published t {id} synced"));
    }
    client.asks(&publish("t", "d", 1), "published t d synced");
    waits(&mut client, "t", &[("b", 5), ("d", 1), ("c", 0)]);
    // As urgent as the least urgent event: the older one is dropped.
    client.asks(&publish("t", "e", 0), "published t e synced");
    waits(&mut client, "t", &[("b", 5), ("d", 1), ("e", 0)]);
    // Less urgent than all others: the new event itself is dropped.
    client.asks(&publish("t", "f", -1), "dropped t f");
    waits(&mut client, "t", &[("b", 5), ("d", 1), ("e", 0)]);
    broker.wait_for_figures("t", &[("waiting", 3), ("dropped", 3)]);
    // A replacement needs no room.
    client.asks(&publish("t", "d", 2), "replaced t d synced");
    broker.kill();
    broker.run();
    let mut client = confirmed(&broker);
    waits(&mut client, "t", &[("b", 5), ("d", 2), ("e", 0)]);
    // Events in flight count, but cannot be dropped.
    assert!(client.ask(r#"hello {"confirm":true,"prefetch":3}"#).starts_with("hello"));
    client.send("sub t s");
    client.expect("successfully subscribed to topic t");
    for (id, priority) in [("b", 5), ("d", 2), ("e", 0)] {
        client.expect(&delivery("t", id, priority));
    }
    client.asks(&publish("t", "g", 9), "dropped t g");
}

#[test]
fn a_burst_leaves_the_most_urgent_events_even_while_others_are_being_written() {
    let broker = TestBroker::start("[topics.t]\nmax_waiting = 10\noverflow = \"drop-lowest\"\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    let burst: String = (0..3000).map(|n| publish("t", &n.to_string(), n % 100) + "\n").collect();
    client.send_raw(burst.as_bytes());
    for n in 0..3000 {
        let line = client.line();
        assert!(line == format!("published t {n} synced") || line == format!("dropped t {n}"), "{line}");
    }
    // The latest ten of the most urgent, because among equals the older one is dropped.
    let expected: Vec<String> = (20..30).map(|n| (n * 100 + 99).to_string()).collect();
    let expected: Vec<(&str, i32)> = expected.iter().map(|id| (id.as_str(), 99)).collect();
    waits(&mut client, "t", &expected);
    broker.wait_for_figures("t", &[("waiting", 10), ("dropped", 2990)]);
}

#[test]
fn each_subscription_drops_for_itself() {
    let mut broker = TestBroker::start("[topics.t]\nmax_waiting = 2\noverflow = \"drop-lowest\"\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "slow");
    for (id, priority) in [("a", 5), ("b", 5)] {
        client.asks(&publish("t", id, priority), &format!("published t {id} synced"));
    }
    durable(&mut client, "t", "new");
    // Dropped only for the slow subscription, so it is published.
    client.asks(&publish("t", "c", 1), "published t c synced");
    for _ in 0..2 {
        client.send("peek t slow");
        client.expect_all(&[delivery("t", "a", 5), delivery("t", "b", 5), "end of peek".into()]);
        client.send("peek t new");
        client.expect_all(&[delivery("t", "c", 1), "end of peek".into()]);
        broker.kill();
        broker.run();
        client = confirmed(&broker);
    }
}

#[test]
fn with_a_byte_limit_as_many_events_are_dropped_as_necessary() {
    let broker = TestBroker::start("[topics.t]\nmax_waiting_bytes = 1000\noverflow = \"drop-lowest\"\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    let event = |id: &str, priority: i32, length: usize| {
        format!("pub t {{\"id\":\"{id}\",\"priority\":{priority},\"msg\":\"{}\"}}", "x".repeat(length))
    };
    for id in ["a", "b", "c", "d"] {
        client.asks(&event(id, 0, 150), &format!("published t {id} synced"));
    }
    client.asks(&event("large", 1, 500), "published t large synced");
    broker.wait_for_figures("t", &[("waiting", 3), ("dropped", 2)]);
    let answer = client.ask(&event("huge", 9, 2000));
    assert!(answer.starts_with("error: topic t is full: an event of "), "{answer}");
    broker.wait_for_figures("t", &[("waiting", 3), ("dropped", 2)]);
}

#[test]
fn with_dead_letter_the_least_urgent_event_becomes_a_dead_letter() {
    let mut broker = TestBroker::start("[topics.t]\nmax_waiting = 2\noverflow = \"dead-letter\"\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    for (id, priority) in [("a", 0), ("b", 5), ("c", 1), ("d", -1)] {
        client.asks(&publish("t", id, priority), &format!("published t {id} synced"));
    }
    broker.wait_for_figures("t", &[("waiting", 2), ("dead_lettered", 2), ("dropped", 0)]);
    for _ in 0..2 {
        waits(&mut client, "t", &[("b", 5), ("c", 1)]);
        client.send("peek t.dead");
        for (id, priority) in [("a", 0), ("d", -1)] {
            let line = client.line();
            let begin = format!("{{\"topic\":\"t.dead\",\"priority\":{priority},\"msg\":\"m\",\"id\":\"{id}\",");
            assert!(line.starts_with(&begin), "{line}");
            assert!(
                line.contains(r#""dead":{"topic":"t","subscription":"s","reason":"overflow","deliveries":0,"at":"#)
            );
        }
        client.expect("end of peek");
        broker.kill();
        broker.run();
        client = confirmed(&broker);
    }
}

#[test]
fn when_the_dead_letters_are_full_too_the_topic_refuses_with_the_reason() {
    let config = "[topics.t]\nmax_waiting = 1\noverflow = \"dead-letter\"\n[topics.\"t.dead\"]\nmax_waiting = 1\n";
    let broker = TestBroker::start(config);
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    client.asks(&publish("t", "a", 0), "published t a synced");
    client.asks(&publish("t", "b", 0), "published t b synced");
    broker.wait_for_figures("t.dead", &[("waiting", 1)]);
    // This event is already accepted when the lack of room is found, so it stays.
    client.asks(&publish("t", "c", 0), "published t c synced");
    let _logged = broker.wait_for_log("dead letters kept back: no room in the dead-letter topic");
    let answer = client.ask(&publish("t", "d", 0));
    assert!(
        answer.starts_with("error: topic t is full: 1 events wait in subscription \"s\", and topic t.dead is full"),
        "{answer}"
    );
}

#[test]
fn a_burst_into_the_dead_letters_loses_nothing() {
    let mut broker = TestBroker::start("[topics.t]\nmax_waiting = 5\noverflow = \"dead-letter\"\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    let burst: String = (0..2000).map(|n| publish("t", &n.to_string(), n % 10) + "\n").collect();
    client.send_raw(burst.as_bytes());
    for n in 0..2000 {
        client.expect(&format!("published t {n} synced"));
    }
    broker.kill();
    broker.run();
    // Events not yet moved at the kill are still in their topic.
    let mut client = broker.telnet();
    let waiting = |client: &mut Telnet, topic: &str| {
        let answer = client.ask(&format!("stats {topic}"));
        // The kill may come before any event has been moved.
        if answer.starts_with("error: no such topic") {
            return 0;
        }
        let stats: serde_json::Value = serde_json::from_str(&answer).unwrap();
        stats["topics"][0]["subscriptions"][0]["waiting"].as_u64().unwrap()
    };
    assert_eq!(waiting(&mut client, "t") + waiting(&mut client, "t.dead"), 2000);
}
