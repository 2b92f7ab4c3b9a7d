//! `peek`, `purge` and `redrive`.

use herald_tests::{Telnet, TestBroker, delivery, publish, redelivery};

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
fn peeks(client: &mut Telnet, command: &str, expected: &[String]) {
    client.send(command);
    for line in expected {
        client.expect(line);
    }
    client.expect("end of peek");
}

#[test]
fn peek_shows_waiting_events_in_delivery_order_and_changes_nothing() {
    let mut broker = TestBroker::start("[topics.\"*\"]\nduplicate_id = \"keep\"\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    client.asks("peek none", "error: no such topic: \"none\"");
    peeks(&mut client, "peek t", &[]);
    for n in 0..15 {
        client.send(&publish("t", &n.to_string(), n % 3));
    }
    client.send(r#"pub t {"id":"late","priority":9,"delay_ms":600000}"#);
    let order: Vec<i32> = [2, 1, 0].iter().flat_map(|p| (0..15).filter(move |n| n % 3 == *p)).collect();
    let lines: Vec<String> = order.iter().map(|n| delivery("t", &n.to_string(), n % 3)).collect();
    for n in 0..15 {
        client.expect(&format!("published t {n} synced"));
    }
    client.expect("published t late synced");
    for _ in 0..2 {
        peeks(&mut client, "peek t", &lines[..10]);
        peeks(&mut client, "peek t 3", &lines[..3]);
        peeks(&mut client, "peek t s", &lines[..10]);
        peeks(&mut client, "peek t s 1000", &lines);
        broker.kill();
        broker.run();
        client = confirmed(&broker);
    }
    // Page by page, until the end names no position.
    let (mut position, mut paged) = ("start".to_owned(), Vec::new());
    loop {
        client.send(&format!("peek t s 4 after {position}"));
        let end = loop {
            match client.line() {
                line if line.starts_with('{') => paged.push(line),
                line => break line,
            }
        };
        match end.strip_prefix("end of peek after ") {
            Some(next) => position = next.to_owned(),
            None => break assert_eq!(end, "end of peek"),
        }
    }
    assert_eq!(paged, lines);
    // Events in flight are not shown. Those that came back are, with their count.
    client.send("sub t s");
    client.expect_all(&["successfully subscribed to topic t".into(), lines[0].clone()]);
    peeks(&mut client, "peek t 1", &lines[1..2]);
    client.asks("nack t 2", "requeued ev_id=2");
    client.expect(&redelivery("t", "2", 2, 1));
    client.asks("detach t", "detached from topic t");
    peeks(&mut client, "peek t 2", &[redelivery("t", "2", 2, 2), lines[1].clone()]);
    // Replies stay in order.
    client.send_raw(b"peek t 1\nping\npeek t 1\nping\n");
    for _ in 0..2 {
        client.expect_all(&[redelivery("t", "2", 2, 2), "end of peek".into(), "pong".into()]);
    }
}

#[test]
fn peek_sees_events_just_published_by_its_own_connection() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    durable(&mut client, "t", "s");
    for n in 0..50 {
        let (id, others) = (n.to_string(), 50 - n);
        client.send_raw(format!("{}\npeek t\n", publish("t", &id, n)).as_bytes());
        client.expect(&delivery("t", &id, n));
        for _ in 1..10.min(51 - others) {
            let _others = client.line();
        }
        client.expect("end of peek");
    }
}

#[test]
fn an_ambiguous_subscription_is_an_error() {
    let broker = TestBroker::start("");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "one");
    durable(&mut client, "t", "two");
    client.asks(&publish("t", "a", 0), "published t a synced");
    client.asks(
        "peek t",
        "error: usage: peek <topic> [<subscription>] [<n>] [after <position>]: topic t has the subscriptions \"one\", \"two\"",
    );
    client.asks(
        "purge t",
        "error: usage: purge <topic> [<subscription>]: topic t has the subscriptions \"one\", \"two\"",
    );
    client.asks("purge t three", "error: no such subscription: topic t has none called \"three\"");
    client.asks("purge t one", "purged 1");
    peeks(&mut client, "peek t one", &[]);
    peeks(&mut client, "peek t two", &[delivery("t", "a", 0)]);
    // The connection's own subscription takes precedence.
    client.send("sub t");
    client.expect("successfully subscribed to topic t");
    client.send(&publish("t", "b", 0));
    client.send(&publish("t", "c", 0));
    let mut lines = [client.line(), client.line(), client.line()];
    lines.sort();
    assert_eq!(lines[2], delivery("t", "b", 0));
    client.send("peek t");
    client.expect_all(&[delivery("t", "c", 0), "end of peek".into()]);
    client.asks("purge t", "purged 1");
    broker.wait_for_figures("t", &[("waiting", 2)]);
    for command in ["peek", "peek t a b c", "purge t a b", "purge", "redrive", "redrive t 1 2"] {
        assert!(client.ask(command).starts_with("error: usage: "), "{command}");
    }
    for command in ["peek t 0", "peek t 1001", "redrive t 0", "redrive t x", "peek t one -1"] {
        assert!(client.ask(command).starts_with("error: invalid number of events"), "{command}");
    }
}

#[test]
fn purge_drops_waiting_events_keeps_those_in_flight_and_survives_a_kill() {
    let mut broker = TestBroker::start("");
    let mut client = confirmed(&broker);
    client.asks("sub t s", "successfully subscribed to topic t");
    durable(&mut confirmed(&broker), "t", "other");
    for n in 0..20 {
        client.send(&publish("t", &n.to_string(), 0));
    }
    let mut lines: Vec<String> = (0..21).map(|_| client.line()).collect();
    lines.retain(|line| !line.starts_with("published t "));
    assert_eq!(lines, [delivery("t", "0", 0)]);
    client.asks("nack t 0 600000", "requeued ev_id=0");
    client.expect(&delivery("t", "1", 0));
    client.asks("purge t", "purged 19");
    client.asks("ack t 2", "no_event_error: 2");
    client.asks("ack t 0", "no_event_error: 0");
    client.asks("nack t 1", "requeued ev_id=1");
    client.expect(&redelivery("t", "1", 0, 1));
    broker.kill();
    broker.run();
    let mut client = confirmed(&broker);
    peeks(&mut client, "peek t s", &[redelivery("t", "1", 0, 1)]);
    client.send("peek t other 1000");
    for n in 0..20 {
        client.expect(&delivery("t", &n.to_string(), 0));
    }
    client.expect("end of peek");
    client.asks(&publish("t", "new", 0), "published t new synced");
    peeks(&mut client, "peek t s", &[redelivery("t", "1", 0, 1), delivery("t", "new", 0)]);
}

#[test]
fn a_large_purge_blocks_no_other_client() {
    let broker = TestBroker::start("[broker]\nshards = 1\n");
    let mut client = confirmed(&broker);
    durable(&mut client, "t", "s");
    for part in 0..20 {
        let burst: String = (0..1000).map(|n| publish("t", &format!("{part}-{n}"), n % 7) + "\n").collect();
        client.send_raw(burst.as_bytes());
        for _ in 0..1000 {
            assert!(client.line().starts_with("published "));
        }
    }
    let mut other = broker.telnet();
    other.asks("sub u", "successfully subscribed to topic u");
    client.send("purge t");
    for n in 0..10 {
        let id = n.to_string();
        other.asks(&publish("u", &id, 0), &delivery("u", &id, 0));
        other.send(&format!("ack u {id}"));
        other.expect_all(&[format!("acknowledged from logs ev_id={id}"), "no available message".into()]);
    }
    client.expect("purged 20000");
    peeks(&mut client, "peek t", &[]);
}

#[test]
fn redrive_moves_each_letter_back_to_its_subscription_and_restarts_its_delivery_count() {
    let mut broker = TestBroker::start("");
    let (mut one, mut two) = (broker.telnet(), broker.telnet());
    one.asks("sub t one", "successfully subscribed to topic t");
    two.asks("sub t two", "successfully subscribed to topic t");
    for id in ["a", "b", "c"] {
        one.asks(&publish("t", id, 1), &delivery("t", id, 1));
        two.expect(&delivery("t", id, 1));
        one.asks(&format!("term t {id}"), &format!("terminated ev_id={id}"));
        two.asks(&format!("nack t {id}"), &format!("requeued ev_id={id}"));
        two.expect(&redelivery("t", id, 1, 1));
        if id == "b" {
            two.asks("term t b", "terminated ev_id=b");
        } else {
            two.send(&format!("ack t {id}"));
            two.expect_all(&[format!("acknowledged from logs ev_id={id}"), "no available message".into()]);
        }
    }
    broker.wait_for_figures("t.dead", &[("waiting", 4)]);
    // On a connection of its own: an event may be delivered before the answer.
    let mut operator = broker.telnet();
    operator.asks("redrive t 1", "redriven 1");
    one.expect(&delivery("t", "a", 1));
    operator.asks("redrive t", "redriven 3");
    two.expect(&delivery("t", "b", 1));
    two.send("ack t b");
    two.expect_all(&["acknowledged from logs ev_id=b", "no available message"]);
    one.send("ack t a");
    one.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 1)]);
    one.asks("redrive t", "redriven 0");
    broker.wait_for_figures("t.dead", &[("waiting", 0)]);
    broker.kill();
    broker.run();
    let mut one = broker.telnet();
    one.asks("sub t one", "successfully subscribed to topic t");
    let first = one.line();
    assert!([delivery("t", "b", 1), redelivery("t", "b", 1, 1)].contains(&first), "{first}");
    one.send("ack t b");
    one.expect_all(&["acknowledged from logs ev_id=b".into(), delivery("t", "c", 1)]);
    let mut two = broker.telnet();
    two.asks("sub t two", "successfully subscribed to topic t");
    two.nothing();
    broker.wait_for_figures("t.dead", &[("waiting", 0)]);
}

#[test]
fn a_letter_whose_id_waits_again_or_whose_subscription_is_gone_is_not_moved() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    for id in ["a", "b"] {
        client.asks(&publish("t", id, 1), &delivery("t", id, 1));
        client.asks(&format!("term t {id}"), &format!("terminated ev_id={id}"));
    }
    client.asks(&publish("t", "a", 5), &delivery("t", "a", 5));
    client.asks("redrive t", "redriven 1");
    broker.wait_for_figures("t.dead", &[("waiting", 1)]);
    client.asks("unsub t", "successfully unsubscribe from topic t");
    client.asks("redrive t", "redriven 0");
    // The letter has not moved, and can be delivered.
    client.asks("sub t.dead dead", "successfully subscribed to topic t.dead");
    let letter = client.line();
    assert!(letter.starts_with(r#"{"topic":"t.dead","priority":1,"msg":"m","id":"a","dead":{"#), "{letter}");
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("redrive t", "redriven 0");
    client.asks("nack t.dead a 600000", "requeued ev_id=a");
    // The event counts as waiting while it is delayed.
    broker.telnet().asks("redrive t", "redriven 1");
    client.expect(&delivery("t", "a", 1));
    client.asks("redrive none", "redriven 0");
}

#[test]
fn a_thousand_letters_come_back_once_each() {
    let broker = TestBroker::start("[topics.t]\nmax_deliveries = 1\n[topics.\"t.dead\"]\n");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"prefetch":2000}"#).starts_with("hello"));
    client.asks("sub t s", "successfully subscribed to topic t");
    for n in 0..1000 {
        client.send(&publish("t", &n.to_string(), n % 5));
    }
    for _ in 0..1000 {
        let _delivered = client.line();
    }
    client.asks("detach t", "detached from topic t");
    broker.wait_for_figures("t.dead", &[("waiting", 1000)]);
    broker.wait_for_figures("t", &[("waiting", 0), ("dead_lettered", 1000)]);
    client.asks("redrive t 300", "redriven 300");
    client.asks("redrive t", "redriven 700");
    broker.wait_for_figures("t.dead", &[("waiting", 0)]);
    broker.wait_for_figures("t", &[("waiting", 1000)]);
    client.asks("sub t s", "successfully subscribed to topic t");
    let order = [4, 3, 2, 1, 0].into_iter().flat_map(|p| (0..1000).filter(move |n| n % 5 == p));
    for n in order {
        client.expect(&delivery("t", &n.to_string(), n % 5));
    }
}
