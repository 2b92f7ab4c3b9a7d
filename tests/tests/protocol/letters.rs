//! Dead letters: why events become dead letters, what these contain, and where they wait, restarts included.

use herald_tests::{PATIENCE, Telnet, TestBroker, delivery, publish, redelivery};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

fn subscriber(broker: &TestBroker, name: &str) -> Telnet {
    let mut client = broker.telnet();
    client.asks(&format!("sub t {name}"), SUBSCRIBED);
    client
}

/// The line of a dead letter with its time replaced by 0, after a check that the time is now.
fn timeless(line: &str) -> String {
    let Some((head, rest)) = line.split_once(r#","at":"#) else { return line.to_owned() };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
    let at: u64 = rest[..end].parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(at <= now + 1000 && at + 120_000 > now, "{at} is not close to {now}");
    format!(r#"{head},"at":0{}"#, &rest[end..])
}

fn letter(id: &str, priority: i32, subscription: &str, reason: &str, deliveries: u32, note: &str) -> String {
    format!(
        "{{\"topic\":\"t.dead\",\"priority\":{priority},\"msg\":\"m\",\"id\":\"{id}\",\"dead\":{{\"topic\":\"t\",\
         \"subscription\":{subscription},\"reason\":\"{reason}\",\"deliveries\":{deliveries},\"at\":0{note}}}}}"
    )
}

/// Every event waiting in a topic's only subscription.
fn peek(client: &mut Telnet, topic: &str) -> Vec<String> {
    client.send(&format!("peek {topic} 1000"));
    let mut lines = Vec::new();
    loop {
        match client.line() {
            line if line == "end of peek" => return lines,
            line => lines.push(timeless(&line)),
        }
    }
}

/// Waits until exactly these events wait in a topic's only subscription.
#[track_caller]
fn wait_for(broker: &TestBroker, topic: &str, expected: &[String]) {
    let mut client = broker.telnet();
    let began = Instant::now();
    loop {
        let answer = client.ask(&format!("stats {topic}"));
        let found = if answer.starts_with("error: no such topic") { Vec::new() } else { peek(&mut client, topic) };
        if found == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{found:#?}, expected {expected:#?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_terminated_event_becomes_a_dead_letter_with_its_reason_and_the_next_event_comes() {
    let mut broker = TestBroker::start("");
    let mut client = subscriber(&broker, "s");
    for (id, priority) in [("a", 5), ("b", -1)] {
        client.send(&publish("t", id, priority));
    }
    client.expect(&delivery("t", "a", 5));
    client.asks("term t b", "no_event_error: b");
    client.asks("term t x", "no_event_error: x");
    client.send("term t a no \"such\"  user");
    client.expect_all(&["terminated ev_id=a".into(), delivery("t", "b", -1)]);
    client.asks("term t a", "no_event_error: a");
    client.asks("ack t a", "no_event_error: a");
    let first = letter("a", 5, "\"s\"", "terminated", 1, r#","note":"no \"such\"  user""#);
    assert_eq!(peek(&mut client, "t.dead"), std::slice::from_ref(&first));
    client.asks("nack t b", "requeued ev_id=b");
    client.expect(&redelivery("t", "b", -1, 1));
    client.asks("term t b", "terminated ev_id=b");
    let second = letter("b", -1, "\"s\"", "terminated", 2, "");
    assert_eq!(peek(&mut client, "t.dead"), [first.clone(), second.clone()]);
    // After a crash, an answered dead letter is in the dead-letter topic only.
    broker.kill();
    broker.run();
    let mut client = subscriber(&broker, "s");
    client.nothing();
    assert_eq!(peek(&mut client, "t.dead"), [first.clone(), second]);
    // The dead-letter topic is a topic like any other.
    client.asks("sub t.dead dead", "successfully subscribed to topic t.dead");
    assert_eq!(timeless(&client.line()), first);
    client.asks("nack t.dead a", "requeued ev_id=a");
    let again = client.line();
    assert!(again.contains(r#","id":"a","redelivered":1,"dead":{"topic":"t","#), "{again}");
}

#[test]
fn too_many_deliveries_make_a_dead_letter_however_the_event_comes_back() {
    let config = "[topics.t]\nmax_deliveries = 2\nack_timeout_ms = 150\n";
    let broker = TestBroker::start(config);
    let mut client = subscriber(&broker, "s");
    client.send(&publish("t", "nacked", 0));
    client.expect(&delivery("t", "nacked", 0));
    client.asks("nack t nacked", "requeued ev_id=nacked");
    client.expect(&redelivery("t", "nacked", 0, 1));
    client.asks("nack t nacked 5000", "requeued ev_id=nacked");
    wait_for(&broker, "t.dead", &[letter("nacked", 0, "\"s\"", "max_deliveries", 2, "")]);
    client.asks("nack t nacked", "no_event_error: nacked");
    client.send(&publish("t", "overdue", 0));
    client.expect(&delivery("t", "overdue", 0));
    client.expect(&redelivery("t", "overdue", 0, 1));
    let expected =
        [letter("nacked", 0, "\"s\"", "max_deliveries", 2, ""), letter("overdue", 0, "\"s\"", "max_deliveries", 2, "")];
    wait_for(&broker, "t.dead", &expected);
    broker.wait_for_figures("t", &[("waiting", 0), ("in_flight", 0), ("dead_lettered", 2), ("redelivered", 2)]);
}

#[test]
fn an_event_that_takes_the_broker_down_becomes_a_dead_letter_on_every_storage() {
    for kind in ["json-log", "sqlite", "sled"] {
        let mut broker = TestBroker::start(&format!("[storage]\nkind = \"{kind}\"\n[topics.t]\nmax_deliveries = 2\n"));
        for life in 0..2 {
            let mut client = subscriber(&broker, "s");
            if life == 0 {
                client.send(&publish("t", "a", 0));
                client.expect(&delivery("t", "a", 0));
            } else {
                client.expect(&redelivery("t", "a", 0, life));
            }
            // The record is in the next batch, so also in that of an event confirmed after the delivery.
            let mut publisher = broker.telnet();
            assert!(publisher.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
            let marker = format!("marker-{life}");
            publisher.asks(&publish("t", &marker, -1), &format!("published t {marker} synced"));
            broker.kill();
            broker.run();
        }
        // Nobody consumes.
        wait_for(&broker, "t.dead", &[letter("a", 0, "\"s\"", "max_deliveries", 2, "")]);
        broker.wait_for_figures("t", &[("waiting", 2), ("in_flight", 0)]);
    }
}

#[test]
fn a_lost_connection_counts_and_the_count_survives_a_kill() {
    let mut broker = TestBroker::start("[topics.t]\nmax_deliveries = 2\n");
    let mut client = subscriber(&broker, "s");
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    drop(client);
    broker.wait_for_figures("t", &[("waiting", 1)]);
    broker.kill();
    broker.run();
    let mut client = subscriber(&broker, "s");
    client.expect(&redelivery("t", "a", 0, 1));
    client.asks("detach t", "detached from topic t");
    wait_for(&broker, "t.dead", &[letter("a", 0, "\"s\"", "max_deliveries", 2, "")]);
    broker.kill();
    broker.run();
    wait_for(&broker, "t.dead", &[letter("a", 0, "\"s\"", "max_deliveries", 2, "")]);
    let mut client = subscriber(&broker, "s");
    client.nothing();
}

#[test]
fn a_stricter_policy_applies_at_the_events_next_delivery() {
    let mut broker = TestBroker::start("");
    let mut client = subscriber(&broker, "s");
    client.send(&publish("t", "a", 1));
    client.send(&publish("t", "b", 0));
    client.expect(&delivery("t", "a", 1));
    for times in 1..4 {
        client.asks("nack t a", "requeued ev_id=a");
        client.expect(&redelivery("t", "a", 1, times));
    }
    assert!(broker.terminate().success());
    std::fs::write(broker.dir().join("herald.toml"), "[topics.t]\nmax_deliveries = 3\n").unwrap();
    broker.run();
    let mut client = subscriber(&broker, "s");
    client.expect(&delivery("t", "b", 0));
    wait_for(&broker, "t.dead", &[letter("a", 1, "\"s\"", "max_deliveries", 4, "")]);
}

#[test]
fn expired_events_become_dead_letters_if_configured_without_any_consumer() {
    let mut broker = TestBroker::start("[topics.t]\nexpired_to_dead_letter = true\n[topics.u]\nttl_ms = 50\n");
    let mut client = subscriber(&broker, "s");
    client.asks("detach t", "detached from topic t");
    client.asks("sub u s", "successfully subscribed to topic u");
    client.asks("detach u", "detached from topic u");
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks(r#"pub t {"id":"soon","priority":2,"msg":"m","ttl_ms":50}"#, "published t soon synced");
    client.asks(r#"pub t {"id":"later","priority":1,"msg":"m","ttl_ms":1500}"#, "published t later synced");
    client.asks(r#"pub u {"id":"x","ttl_ms":600000}"#, "published u x synced");
    let soon = letter("soon", 2, "\"s\"", "expired", 0, "");
    wait_for(&broker, "t.dead", std::slice::from_ref(&soon));
    broker.wait_for_figures("t", &[("waiting", 1), ("expired", 1), ("dead_lettered", 1)]);
    broker.wait_for_figures("u", &[("waiting", 0), ("expired", 1), ("dead_lettered", 0)]);
    broker.kill();
    broker.run();
    wait_for(&broker, "t.dead", &[soon, letter("later", 1, "\"s\"", "expired", 0, "")]);
    assert_eq!(client_topics(&broker), ["t", "t.dead", "u"]);
}

fn client_topics(broker: &TestBroker) -> Vec<String> {
    let topics: serde_json::Value = serde_json::from_str(&broker.telnet().ask("topics")).unwrap();
    topics.as_array().unwrap().iter().map(|topic| topic["topic"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_letter_of_a_nameless_subscription_has_a_null_name() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", SUBSCRIBED);
    client.asks(&publish("t", "a", 0), &delivery("t", "a", 0));
    client.asks("term t a", "terminated ev_id=a");
    assert_eq!(peek(&mut client, "t.dead"), [letter("a", 0, "null", "terminated", 1, "")]);
    client.asks("redrive t", "redriven 0");
    assert_eq!(peek(&mut client, "t.dead").len(), 1);
}

#[test]
fn letters_of_one_event_from_several_subscriptions_are_several_letters() {
    let broker = TestBroker::start("");
    let (mut one, mut two) = (subscriber(&broker, "one"), subscriber(&broker, "two"));
    one.asks(&publish("t", "a", 0), &delivery("t", "a", 0));
    two.expect(&delivery("t", "a", 0));
    one.asks("term t a first", "terminated ev_id=a");
    two.asks("term t a second", "terminated ev_id=a");
    let letters = [("one", "first"), ("two", "second")]
        .map(|(name, note)| letter("a", 0, &format!("\"{name}\""), "terminated", 1, &format!(",\"note\":\"{note}\"")));
    assert_eq!(peek(&mut one, "t.dead"), letters);
}

#[test]
fn the_dead_letter_topic_is_named_by_the_configuration_and_limited_by_its_own_name_only() {
    let config = "[topics.\"*\"]\nmax_waiting = 2\nauto_create = false\n[topics.t]\ndead_letter = \"grave.{topic}\"\n\
                  [topics.u]\ndead_letter = \"small\"\n[topics.small]\nmax_waiting = 1\n";
    let broker = TestBroker::start(config);
    let mut client = subscriber(&broker, "s");
    for id in ["a", "b", "c", "d"] {
        client.asks(&publish("t", id, 0), &delivery("t", id, 0));
        client.asks(&format!("term t {id}"), &format!("terminated ev_id={id}"));
    }
    assert_eq!(peek(&mut client, "grave.t").len(), 4);
    client.asks("sub u s", "successfully subscribed to topic u");
    client.asks(&publish("u", "a", 0), &delivery("u", "a", 0));
    client.asks("term u a", "terminated ev_id=a");
    client.asks(&publish("u", "b", 0), &delivery("u", "b", 0));
    // The event stays in flight.
    let answer = client.ask("term u b");
    assert!(answer.starts_with("error: topic small is full: 1 events wait in subscription \"dead\""), "{answer}");
    let _logged = broker.wait_for_log("dead letters kept back: no room in the dead-letter topic");
    client.send(&publish("u", "c", 0));
    client.nothing();
    client.asks("purge small", "purged 1");
    client.send("term u b");
    client.expect_all(&["terminated ev_id=b".into(), delivery("u", "c", 0)]);
}

#[test]
fn a_letter_without_room_is_retried_until_there_is_room() {
    let config = "[topics.t]\nmax_deliveries = 1\n[topics.\"t.dead\"]\nmax_waiting = 1\n";
    let broker = TestBroker::start(config);
    let mut client = subscriber(&broker, "s");
    for id in ["a", "b"] {
        client.asks(&publish("t", id, 0), &delivery("t", id, 0));
        client.asks(&format!("nack t {id}"), &format!("requeued ev_id={id}"));
    }
    wait_for(&broker, "t.dead", &[letter("a", 0, "\"s\"", "max_deliveries", 1, "")]);
    client.nothing();
    broker.wait_for_figures("t", &[("waiting", 1), ("dead_lettered", 1)]);
    client.asks("purge t.dead", "purged 1");
    wait_for(&broker, "t.dead", &[letter("b", 0, "\"s\"", "max_deliveries", 1, "")]);
    broker.wait_for_figures("t", &[("waiting", 0), ("dead_lettered", 2)]);
}

#[test]
fn an_event_replaced_while_in_flight_can_be_terminated_and_its_successor_comes() {
    let broker = TestBroker::start("");
    let mut client = subscriber(&broker, "s");
    client.asks(&publish("t", "a", 3), &delivery("t", "a", 3));
    client.send(&publish("t", "a", 1));
    client.nothing();
    client.send("term t a");
    client.expect_all(&["terminated ev_id=a".into(), delivery("t", "a", 1)]);
    assert_eq!(peek(&mut client, "t.dead"), [letter("a", 3, "\"s\"", "terminated", 1, "")]);
}

#[test]
fn an_event_published_to_a_dead_letter_topic_without_a_subscription_is_kept() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks(&publish("t.dead", "a", 0), "published t.dead a synced");
    assert_eq!(peek(&mut client, "t.dead"), [delivery("t.dead", "a", 0)]);
    broker.wait_for_figures("t.dead", &[("waiting", 1)]);
    client.asks("sub t.dead dead", "successfully subscribed to topic t.dead");
    client.expect(&delivery("t.dead", "a", 0));
}

#[test]
fn many_events_terminated_at_once_are_answered_in_order() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"prefetch":500}"#).starts_with("hello"));
    client.asks("sub t s", SUBSCRIBED);
    for n in 0..500 {
        client.send(&publish("t", &n.to_string(), 0));
    }
    for n in 0..500 {
        client.expect(&delivery("t", &n.to_string(), 0));
    }
    let commands: String = (0..500).map(|n| format!("term t {n}\nping\n")).collect();
    client.send_raw(commands.as_bytes());
    for n in 0..500 {
        client.expect_all(&[format!("terminated ev_id={n}"), "pong".into()]);
    }
    broker.wait_for_figures("t.dead", &[("waiting", 500)]);
    assert_eq!(peek(&mut client, "t.dead").len(), 500);
}

/// The ids of the events waiting in a topic.
fn ids(client: &mut Telnet, topic: &str) -> Vec<String> {
    peek(client, topic).iter().map(|line| herald_tests::id_of(line)).collect()
}

#[test]
fn a_kill_at_any_moment_leaves_each_event_in_exactly_one_topic_and_answered_ones_among_the_dead() {
    for storage in ["json-log", "sqlite"] {
        kill_while_events_are_terminated(TestBroker::start(&format!("[storage]\nkind = \"{storage}\"\n")));
    }
}

fn kill_while_events_are_terminated(mut broker: TestBroker) {
    const EVENTS: usize = 120;
    broker.telnet().asks("sub t.dead dead", "successfully subscribed to topic t.dead");
    for round in 0..8 {
        let mut client = broker.telnet();
        assert!(client.ask(r#"hello {"prefetch":1000}"#).starts_with("hello"));
        client.asks("sub t s", SUBSCRIBED);
        for n in 0..EVENTS {
            client.send(&publish("t", &format!("{round}-{n}"), 0));
        }
        for _ in 0..EVENTS {
            let _delivered = client.line();
        }
        let commands: String = (0..EVENTS).map(|n| format!("term t {round}-{n}\n")).collect();
        client.send_raw(commands.as_bytes());
        let mut answered = Vec::new();
        for _ in 0..round * EVENTS / 8 {
            let line = client.line();
            answered.push(line.strip_prefix("terminated ev_id=").unwrap_or_else(|| panic!("{line}")).to_owned());
        }
        broker.kill();
        broker.run();
        let mut client = broker.telnet();
        let (alive, dead) = (ids(&mut client, "t"), ids(&mut client, "t.dead"));
        assert!(answered.iter().all(|id| dead.contains(id)), "{answered:?} are not all among {dead:?}");
        let mut all = [alive, dead].concat();
        all.sort();
        let mut expected: Vec<String> = (0..EVENTS).map(|n| format!("{round}-{n}")).collect();
        expected.sort();
        assert_eq!(all, expected, "round {round}");
        client.send_raw(b"purge t\npurge t.dead\n");
        for _ in 0..2 {
            assert!(client.line().starts_with("purged "));
        }
    }
}
