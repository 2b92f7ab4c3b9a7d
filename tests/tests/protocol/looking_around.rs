//! `help`, `ping`, `topics`, `stats` and `quit`.

use herald_tests::{TestBroker, delivery, publish};
use serde_json::{Value, json};

#[test]
fn help_lists_the_commands_with_an_example_each_and_ends_with_an_empty_line() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send("help");
    let lines: Vec<String> = std::iter::from_fn(|| Some(client.line()).filter(|line| !line.is_empty())).collect();
    for word in [
        "pub", "sub", "unsub", "detach", "ack", "nack", "touch", "term", "peek", "redrive", "purge", "hello", "topics",
        "stats", "ping", "help", "quit",
    ] {
        let of_word: Vec<_> = lines.iter().filter(|line| line.split(' ').next() == Some(word)).collect();
        assert!(!of_word.is_empty(), "{word} is missing: {lines:#?}");
        assert!(of_word.iter().all(|line| line.contains(&format!("for example: {word}"))), "{of_word:?}");
    }
    assert!(lines.iter().all(|line| serde_json::from_str::<Value>(line).is_err()));
    client.asks("ping", "pong");
}

#[test]
fn topics_and_stats_count_events_and_connections() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("topics", "[]");
    client.asks("sub t s", "successfully subscribed to topic t");
    let mut other = broker.telnet();
    other.asks("sub t", "successfully subscribed to topic t");
    for id in ["a", "b", "c"] {
        client.send(&publish("t", id, 0));
    }
    client.send(&publish("a.first", "x", 0));
    client.expect(&delivery("t", "a", 0));
    client.send("nack t a 100000");
    client.expect_all(&["requeued ev_id=a".into(), delivery("t", "b", 0)]);
    other.expect(&delivery("t", "a", 0));
    other.send("ack t a");
    other.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 0)]);
    let topics = client.ask("topics");
    assert_eq!(
        topics,
        r#"[{"topic":"a.first","subscriptions":0,"waiting":0,"in_flight":0,"published":1},{"topic":"t","subscriptions":2,"waiting":2,"in_flight":2,"published":3}]"#
    );
    let stats: Value = serde_json::from_str(&client.ask("stats t")).unwrap();
    let keys: Vec<&String> = stats.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["connections", "topics", "uptime_ms", "version"]);
    assert_eq!(stats["connections"], 2);
    let topic = &stats["topics"][0];
    assert_eq!((&topic["topic"], &topic["published"]), (&json!("t"), &json!(3)));
    let [named, nameless] = topic["subscriptions"].as_array().unwrap().as_slice() else { panic!("{topic}") };
    let count = |sub: &Value, key: &str| sub[key].as_u64().unwrap_or_else(|| panic!("{key} of {sub}"));
    assert_eq!((&named["name"], &nameless["name"]), (&json!("s"), &Value::Null));
    for (key, expected) in [
        ("connections", 1),
        ("waiting", 1),
        ("in_flight", 1),
        ("delayed", 1),
        ("delivered", 2),
        ("acknowledged", 0),
        ("redelivered", 0),
        ("expired", 0),
        ("dropped", 0),
        ("dead_lettered", 0),
    ] {
        assert_eq!(count(named, key), expected, "{key}: {named}");
    }
    for (key, expected) in
        [("connections", 1), ("waiting", 1), ("in_flight", 1), ("delayed", 0), ("delivered", 2), ("acknowledged", 1)]
    {
        assert_eq!(count(nameless, key), expected, "{key}: {nameless}");
    }
    assert!(count(named, "oldest_ms") < 60_000);
    let raw = client.ask("stats t");
    assert!(raw.starts_with(&format!("{{\"version\":\"{}\",\"uptime_ms\":", env!("CARGO_PKG_VERSION"))), "{raw}");
    assert!(raw.contains(r#""topics":[{"topic":"t","published":3,"subscriptions":[{"name":"s","connections":1,"waiting":1,"in_flight":1,"delayed":1,"oldest_ms":"#), "{raw}");
    let all: Value = serde_json::from_str(&client.ask("stats")).unwrap();
    assert_eq!(all["topics"].as_array().unwrap().len(), 2);
    assert!(client.ask("stats nowhere").starts_with("error: no such topic: \"nowhere\""));
}

#[test]
fn quit_is_answered_after_everything_before_it() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks("sub t", "successfully subscribed to topic t");
    client.send_raw(format!("{}\nquit\nping\n", publish("u", "a", 0)).as_bytes());
    client.expect_all(&["published u a synced", "bye"]);
    assert_eq!(client.try_line(), None);
}
