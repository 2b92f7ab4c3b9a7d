//! Delayed events: how they count, and which events pass them.

use std::time::{Duration, Instant};

use herald_tests::{Telnet, TestBroker, delivery, publish};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

fn confirmed(broker: &TestBroker) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client
}

#[test]
fn a_delayed_event_counts_as_delayed_until_it_is_due_even_without_consumers() {
    let mut broker = TestBroker::start("");
    let mut client = confirmed(&broker);
    client.asks("sub t s", SUBSCRIBED);
    client.asks("detach t", "detached from topic t");
    client.asks(r#"pub t {"id":"far","delay_ms":3600000}"#, "published t far synced");
    client.asks(r#"pub t {"id":"gone","delay_ms":3600000}"#, "published t gone synced");
    client.asks(r#"pub t {"id":"near","delay_ms":3000}"#, "published t near synced");
    client.asks(r#"pub t {"id":"now"}"#, "published t now synced");
    for _ in 0..2 {
        // On a slow machine the event with the short delay may already be due; the sum stays the same.
        let stats: serde_json::Value = serde_json::from_str(&client.ask("stats t")).unwrap();
        let figures = &stats["topics"][0]["subscriptions"][0];
        let (waiting, delayed) = (figures["waiting"].as_u64().unwrap(), figures["delayed"].as_u64().unwrap());
        assert_eq!(waiting + delayed, 4, "{figures}");
        assert!(delayed == 3 || delayed == 2, "{figures}");
        broker.kill();
        broker.run();
        client = confirmed(&broker);
    }
    broker.wait_for_figures("t", &[("waiting", 2), ("delayed", 2)]);
    // An acknowledgement does not remove an undelivered event.
    client.send("sub t s");
    client.expect(SUBSCRIBED);
    assert!(client.line().contains(r#""id":"near""#), "it was published first");
    client.asks("ack t gone", "no_event_error: gone");
    broker.wait_for_figures("t", &[("waiting", 1), ("delayed", 2), ("in_flight", 1)]);
}

#[test]
fn an_acknowledgement_is_answered_behind_thousands_of_delayed_events() {
    const MANY: usize = 20_000;
    let broker = TestBroker::start("[storage]\ndurability = \"never\"\n");
    let (mut client, mut publisher) = (broker.telnet(), confirmed(&broker));
    client.asks("sub t s", SUBSCRIBED);
    publisher.asks(&publish("t", "first", 0), "published t first memory");
    client.expect(&delivery("t", "first", 0));
    for part in 0..MANY / 1000 {
        let delayed = |n| format!("pub t {{\"id\":\"{part}-{n}\",\"priority\":9,\"delay_ms\":3600000}}\n");
        publisher.send_raw((0..1000).map(delayed).collect::<String>().as_bytes());
        for n in 0..1000 {
            publisher.expect(&format!("published t {part}-{n} memory"));
        }
    }
    publisher.asks(&publish("t", "behind", 0), "published t behind memory");
    client.send_raw(b"ack t first\nping\n");
    client.expect("acknowledged from logs ev_id=first");
    let mut rest = [client.line(), client.line()];
    rest.sort();
    assert_eq!(rest, ["pong".to_owned(), delivery("t", "behind", 0)]);
    client.send("ack t behind");
    client.expect_all(&["acknowledged from logs ev_id=behind", "no available message"]);
    broker.wait_for_figures("t", &[("waiting", 0), ("delayed", MANY as u64), ("in_flight", 0)]);
}

/// Each storage stores an event's state: delivery counts, delays, times to live, and the reason of a dead letter.
#[test]
fn counts_delays_times_to_live_and_reasons_survive_a_restart_on_every_storage() {
    for storage in ["json-log", "sled", "sqlite"] {
        for kill in [false, true] {
            survives(&format!("[storage]\nkind = \"{storage}\"\n[topics.t]\nmax_deliveries = 3\n"), kill);
        }
    }
}

fn restart(broker: &mut TestBroker, kill: bool) -> Telnet {
    if kill {
        broker.kill();
    } else {
        assert!(broker.terminate().success());
    }
    broker.run();
    confirmed(broker)
}

fn survives(config: &str, kill: bool) {
    let mut broker = TestBroker::start(config);
    let mut client = confirmed(&broker);
    assert!(client.ask(r#"hello {"prefetch":10}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    let began = Instant::now();
    for event in [
        r#"{"id":"counted","priority":8}"#,
        r#"{"id":"dead","priority":9}"#,
        r#"{"id":"put-off","priority":6}"#,
        r#"{"id":"delayed","priority":5,"delay_ms":2500}"#,
        r#"{"id":"far","priority":5,"delay_ms":3600000}"#,
    ] {
        client.send(&format!("pub t {event}"));
    }
    let mut lines: Vec<String> = (0..8).map(|_| client.line()).collect();
    lines.retain(|line| !line.starts_with("published t "));
    assert_eq!(lines.len(), 3, "{config}: {lines:?}");
    client.send("nack t counted");
    client.expect("requeued ev_id=counted");
    assert!(client.line().ends_with(r#","id":"counted","redelivered":1}"#));
    client.asks("term t dead because of it", "terminated ev_id=dead");
    client.asks("nack t put-off 2500", "requeued ev_id=put-off");
    client.asks("detach t", "detached from topic t");
    client.asks(r#"pub t {"id":"short","priority":9,"ttl_ms":1}"#, "published t short synced");
    client.asks(r#"pub t {"id":"long","priority":1,"ttl_ms":3600000}"#, "published t long synced");
    let mut client = restart(&mut broker, kill);
    client.asks("sub t s", SUBSCRIBED);
    assert_eq!(client.line(), r#"{"topic":"t","priority":8,"msg":null,"id":"counted","redelivered":2}"#, "{config}");
    client = restart(&mut broker, kill);
    client.send("peek t.dead");
    let line = client.line();
    let letter = r#"{"topic":"t.dead","priority":9,"msg":null,"id":"dead","dead":{"topic":"t","subscription":"s","reason":"terminated","deliveries":1,"at":"#;
    assert!(line.starts_with(letter) && line.ends_with(r#","note":"because of it"}}"#), "{config}: {line}");
    while client.line() != "end of peek" {}
    assert!(client.ask(r#"hello {"prefetch":10}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < if kill { 4 } else { 3 } {
        let line = client.line();
        let of = |id: &str| line.contains(&format!(r#""id":"{id}""#));
        if of("delayed") || of("put-off") {
            assert!(began.elapsed() >= Duration::from_millis(2500), "{config}: {line} after {:?}", began.elapsed());
        }
        seen.push(line);
    }
    seen.sort();
    let mut expected = vec![
        r#"{"topic":"t","priority":1,"msg":null,"id":"long"}"#,
        r#"{"topic":"t","priority":5,"msg":null,"id":"delayed"}"#,
        r#"{"topic":"t","priority":6,"msg":null,"id":"put-off","redelivered":1}"#,
    ];
    if kill {
        // The kill may have interrupted the third delivery, or it may count, and then it was the last one.
        let fourth = seen.pop().unwrap();
        assert_eq!(fourth, r#"{"topic":"t","priority":8,"msg":null,"id":"counted","redelivered":2}"#, "{config}");
    } else {
        broker.wait_for_figures("t.dead", &[("waiting", 2)]);
        client.send("peek t.dead");
        client.expect(&line);
        let second = client.line();
        let letter = r#"{"topic":"t.dead","priority":8,"msg":null,"id":"counted","dead":{"topic":"t","subscription":"s","reason":"max_deliveries","deliveries":3,"#;
        assert!(second.starts_with(letter), "{config}: {second}");
        client.expect("end of peek");
    }
    expected.sort_unstable();
    assert_eq!(seen, expected, "{config}");
    client.nothing();
}
