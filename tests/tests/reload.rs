//! The effects of a SIGHUP on a running broker, and their limits.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use herald_tests::{Authority, Telnet, TestBroker, delivery, publish, redelivery};
use rustix::process::Signal;

/// More than one shard on any machine, because a reload must reach all of them.
const SHARDS: &str = "[broker]\nshards = 4\n";

fn config(topics: &str) -> String {
    format!("{SHARDS}{topics}")
}

/// A client attached to topics, with a prefetch of ten.
fn subscriber(broker: &TestBroker, topics: &[&str]) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"prefetch\":10}").starts_with("hello {"));
    for topic in topics {
        client.asks(&format!("sub {topic} s"), &format!("successfully subscribed to topic {topic}"));
    }
    client
}

/// A client that receives confirmations.
fn publisher(broker: &TestBroker) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"confirm\":true}").starts_with("hello {"));
    client
}

#[test]
fn limits_and_overflow_policies_change_for_existing_and_new_topics() {
    let broker = TestBroker::start(&config(""));
    let _attached = subscriber(&broker, &["full", "bytes", "drop", "grave"]);
    let mut publisher = publisher(&broker);
    let publishes = |publisher: &mut Telnet, topic: &str, id: &str, answer: &str| {
        let line = publisher.ask(&publish(topic, id, 0));
        assert!(line.starts_with(answer), "{line:?} does not start with {answer:?}");
    };
    for topic in ["full", "bytes", "drop", "grave"] {
        publishes(&mut publisher, topic, "a", "published");
        publishes(&mut publisher, topic, "b", "published");
    }
    broker.reload(&config(
        "[topics.\"*\"]\nmax_waiting = 3\n[topics.bytes]\nmax_waiting_bytes = 1\n\
         [topics.drop]\nmax_waiting = 2\noverflow = \"drop-lowest\"\n\
         [topics.grave]\nmax_waiting = 2\noverflow = \"dead-letter\"\n",
    ));
    publishes(&mut publisher, "full", "c", "published");
    publishes(&mut publisher, "full", "d", "error: topic full is full");
    publishes(&mut publisher, "bytes", "c", "error: topic bytes is full");
    publishes(&mut publisher, "drop", "c", "dropped drop c");
    // An event in flight cannot be dropped, so only the new one can.
    publishes(&mut publisher, "grave", "c", "published");
    broker.wait_for_figures("grave.dead", &[("waiting", 1)]);
    let _to_a_new_one = subscriber(&broker, &["new"]);
    for id in ["a", "b", "c"] {
        publishes(&mut publisher, "new", id, "published");
    }
    publishes(&mut publisher, "new", "d", "error: topic new is full");
    // Back to the defaults.
    broker.reload(&config(""));
    for topic in ["full", "bytes", "drop", "grave", "new"] {
        publishes(&mut publisher, topic, "e", "published");
    }
}

#[test]
fn the_duplicate_id_policy_changes_and_events_waiting_for_their_id_become_deliverable() {
    let broker = TestBroker::start(&config(""));
    let mut client = subscriber(&broker, &["t", "u"]);
    let mut publisher = publisher(&broker);
    publisher.asks(&publish("t", "a", 0), "published t a synced");
    client.expect(&delivery("t", "a", 0));
    publisher.asks(&publish("t", "a", 0), "published t a synced");
    client.nothing();
    broker.reload(&config("[topics.t]\nduplicate_id = \"keep\"\n[topics.u]\nduplicate_id = \"reject\"\n"));
    client.expect(&delivery("t", "a", 0));
    publisher.asks(&publish("t", "a", 0), "published t a synced");
    client.expect(&delivery("t", "a", 0));
    publisher.asks(&publish("u", "a", 0), "published u a synced");
    publisher.asks(&publish("u", "a", 0), "error: duplicate id a");
    client.expect(&delivery("u", "a", 0));
    // With three events of one id in flight, the next waits again until none of them is.
    broker.reload(&config("[topics.t]\nduplicate_id = \"replace\"\n"));
    publisher.asks(&publish("t", "a", 7), "published t a synced");
    for _ in 0..2 {
        client.asks("ack t a", "acknowledged from logs ev_id=a");
        client.nothing();
    }
    client.asks("ack t a", "acknowledged from logs ev_id=a");
    client.expect(&delivery("t", "a", 7));
    publisher.asks(&publish("u", "a", 0), "published u a synced");
}

#[test]
fn a_new_timeout_applies_from_the_next_delivery_or_touch() {
    let broker = TestBroker::start(&config(""));
    let mut client = subscriber(&broker, &["t"]);
    for id in ["before", "touched"] {
        client.send(&publish("t", id, 0));
        client.expect(&delivery("t", id, 0));
    }
    broker.reload(&config("[topics.t]\nack_timeout_ms = 300\n"));
    client.send(&publish("t", "after", 0));
    client.expect(&delivery("t", "after", 0));
    client.expect(&redelivery("t", "after", 0, 1));
    client.asks("ack t after", "acknowledged from logs ev_id=after");
    client.nothing();
    client.asks("touch t touched", "touched ev_id=touched");
    client.expect(&redelivery("t", "touched", 0, 1));
    broker.reload(&config(""));
    // The deadline of the current delivery stays; the next delivery has none.
    client.expect(&redelivery("t", "touched", 0, 2));
    client.asks("ack t touched before", "acknowledged from logs ev_id=touched");
    client.expect_all(&["acknowledged from logs ev_id=before", "no available message"]);
}

#[test]
fn dead_letters_follow_the_new_rules() {
    let broker = TestBroker::start(&config(""));
    let mut client = subscriber(&broker, &["t", "u", "v"]);
    for (topic, id) in [("t", "often"), ("u", "given-up"), ("v", "late")] {
        client.send(&publish(topic, id, 0));
        client.expect(&delivery(topic, id, 0));
    }
    broker.reload(&config(
        "[topics.t]\nmax_deliveries = 1\n[topics.u]\ndead_letter = \"grave\"\n\
         [topics.v]\nttl_ms = 200\nexpired_to_dead_letter = true\n",
    ));
    client.asks("nack t often", "requeued ev_id=often");
    broker.wait_for_figures("t.dead", &[("waiting", 1)]);
    client.asks("term u given-up", "terminated ev_id=given-up");
    broker.wait_for_figures("grave", &[("waiting", 1)]);
    // Events published before the reload have no time to live.
    client.send("detach v");
    client.expect("detached from topic v");
    client.send(&publish("v", "new", 0));
    broker.wait_for_figures("v.dead", &[("waiting", 1)]);
    client.send("peek v.dead");
    let letter = client.line();
    assert!(letter.contains("\"id\":\"new\"") && letter.contains("\"reason\":\"expired\""), "{letter}");
    client.expect("end of peek");
    client.asks("sub v s", "successfully subscribed to topic v");
    client.expect(&redelivery("v", "late", 0, 1));
    // A redrive follows the new rules as well.
    // On a connection of its own: the event may be delivered before the answer.
    broker.telnet().asks("redrive u", "redriven 1");
    client.expect(&delivery("u", "given-up", 0));
}

#[test]
fn an_event_that_has_used_up_a_lowered_maximum_becomes_a_dead_letter_without_a_consumer() {
    let broker = TestBroker::start(&config("[topics.t]\nmax_deliveries = 9\n"));
    let mut client = subscriber(&broker, &["t"]);
    client.send(&publish("t", "often", 0));
    client.expect(&delivery("t", "often", 0));
    client.asks("nack t often", "requeued ev_id=often");
    client.expect(&redelivery("t", "often", 0, 1));
    client.asks("detach t", "detached from topic t");
    broker.wait_for_figures("t", &[("waiting", 1)]);
    broker.reload(&config("[topics.t]\nmax_deliveries = 2\n"));
    broker.wait_for_figures("t.dead", &[("waiting", 1)]);
    broker.wait_for_figures("t", &[("waiting", 0), ("dead_lettered", 1)]);
}

#[test]
fn auto_create_changes() {
    let broker = TestBroker::start(&config(""));
    let mut client = broker.telnet();
    client.asks("sub old", "successfully subscribed to topic old");
    broker.reload(&config("[topics.\"*\"]\nauto_create = false\n[topics.named]\n"));
    for line in ["sub new", "pub new {}"] {
        let answer = client.ask(line);
        assert!(answer.starts_with("error:") && answer.contains("new"), "{answer}");
    }
    for topic in ["old", "named"] {
        client.asks(&format!("sub {topic}"), &format!("successfully subscribed to topic {topic}"));
    }
    broker.reload(&config(""));
    client.asks("sub new", "successfully subscribed to topic new");
}

#[test]
fn one_bad_key_or_file_prevents_any_change() {
    let authority = Authority::new();
    let tls = "[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n";
    let mut broker = TestBroker::prepare(&config(tls));
    authority.issue(broker.dir());
    broker.run();
    let mut client = subscriber(&broker, &["t"]);
    let good =
        "[topics.t]\nmax_waiting = 1\n[auth]\ntokens = [{ token = \"some\", name = \"n\", publish = [\"*\"] }]\n";
    let file = broker.dir().join("herald.toml");
    for (text, said) in [
        ("[topics.u]\noverflow = \"drop\"\n", "topics.u.overflow"),
        ("[topics.u]\ndead_letter = \"{topic}\"\n", "topics.u.dead_letter"),
        ("[topics.u]\nmax_wating = 1\n", "topics.u.max_wating"),
        ("[topics.\".u\"]\nttl_ms = 1\n", "no topic can match this pattern"),
        ("[commands]\npublish = \"topics\"\n", "commands.publish"),
        ("[topics.u\n", "herald.toml"),
    ] {
        std::fs::write(&file, format!("{}{good}{text}", config(tls))).unwrap();
        broker.signal(Signal::HUP);
        let line = broker.wait_for_log(said);
        assert!(line.contains("nothing has changed") && line.contains("herald.toml"), "{line}");
    }
    // The configuration is valid, but the TLS key is not.
    std::fs::write(broker.dir().join("key.pem"), "no key").unwrap();
    std::fs::write(&file, format!("{}{good}", config(tls))).unwrap();
    broker.signal(Signal::HUP);
    let line = broker.wait_for_log("TLS is as before");
    assert!(line.contains("key.pem") && line.contains("nothing has changed"), "{line}");
    for id in ["a", "b", "c"] {
        client.send(&publish("t", id, 0));
        client.expect(&delivery("t", id, 0));
    }
    assert!(!broker.log().contains("in force"), "{}", broker.log());
    let _no_token_is_asked_for = subscriber(&broker, &["t"]);
    // Once everything is valid, everything changes.
    authority.issue(broker.dir());
    broker.reload(&format!("{}{good}", config(tls)));
    broker.telnet().asks("ping", "error: authentication required");
}

#[test]
fn exactly_the_keys_that_need_a_restart_are_named() {
    let broker = TestBroker::start(&config("[topics.t]\nmax_waiting = 5\n"));
    broker.reload(
        "[broker]\nshards = 3\nmax_topics = 7\nmax_line_bytes = 5000\nlog = \"debug\"\n[storage]\nmemory_budget_mb = 3\n\
         [transports.tcp]\nmax_connections = 9\n[commands]\npublish = \"say\"\n[topics.t]\nmax_waiting = 1\n\
         [topics.\"new.*\"]\nttl_ms = 9\n",
    );
    broker.reload(&config("[topics.t]\nmax_waiting = 5\n"));
    let log = broker.log();
    let named = log.lines().filter(|line| line.contains("needs a restart"));
    let mut named: Vec<_> = named.filter_map(|line| line.rsplit_once("key=").map(|(_, key)| key.trim())).collect();
    named.sort_unstable();
    let expected = [
        "broker.max_line_bytes",
        "broker.max_topics",
        "broker.shards",
        "commands.publish",
        "storage.memory_budget_mb",
        "transports.tcp.max_connections",
    ];
    assert_eq!(named, expected, "{log}");
    // Those keys keep their old values.
    let mut client = broker.telnet();
    client.asks("say t {}", "error: unknown command: \"say t {}\"; type help for the commands");
}
