//! The configuration of topics: which pattern applies, and which topics may exist.

use herald_tests::{Telnet, TestBroker};

fn durable(client: &mut Telnet, topic: &str) {
    client.asks(&format!("sub {topic} s"), &format!("successfully subscribed to topic {topic}"));
    client.asks(&format!("detach {topic}"), &format!("detached from topic {topic}"));
}

#[test]
fn the_matching_pattern_with_the_most_literal_characters_applies() {
    let patterns = [("*", 1), ("a*", 2), ("a.b*", 3), ("*.b.c", 4), ("a.b.c", 5), ("x*y", 6)];
    let config: String =
        patterns.iter().map(|(pattern, most)| format!("[topics.\"{pattern}\"]\nmax_waiting = {most}\n")).collect();
    let broker = TestBroker::start(&config);
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    for (topic, most) in [
        ("z", 1),
        ("a", 2),
        ("ax", 2),
        ("a.b", 3),
        ("a.b.d", 3),
        ("q.b.c", 4),
        ("a.x.b.c", 4),
        ("a.b.c", 5),
        ("xy", 6),
        ("x.1.y", 6),
    ] {
        durable(&mut client, topic);
        for n in 0..most {
            client.asks(&format!("pub {topic} {{\"id\":{n}}}"), &format!("published {topic} {n} synced"));
        }
        client.asks(
            &format!("pub {topic} {{}}"),
            &format!("error: topic {topic} is full: {most} events wait in subscription \"s\""),
        );
    }
    // A pattern with a `*` does not limit a dead-letter topic.
    durable(&mut client, "a.dead");
    for n in 0..10 {
        client.asks(&format!("pub a.dead {{\"id\":{n}}}"), &format!("published a.dead {n} synced"));
    }
}

#[test]
fn an_error_of_the_topic_comes_before_one_of_the_event() {
    let broker = TestBroker::start("[topics.\"*\"]\nauto_create = false\n[topics.known]\n");
    let mut client = broker.telnet();
    let unknown = "error: unknown topic \"t\": it is not configured, and auto_create is off";
    for event in ["{}", "{", "nonsense", r#"{"id":""}"#, r#"{"priority":1.5}"#] {
        client.asks(&format!("pub t {event}"), unknown);
        let answer = client.ask(&format!("pub t/ {event}"));
        assert!(answer.starts_with("error: invalid topic name \"t/\": "), "{answer}");
        if event != "{}" {
            let answer = client.ask(&format!("pub known {event}"));
            assert!(answer.starts_with("error: event is not of an accepted format: "), "{answer}");
        }
    }
    // An error of the topic comes before one of the subscription.
    assert!(client.ask("sub t/ s/").starts_with("error: invalid topic name "));
    assert!(client.ask("sub t s/").starts_with("error: invalid subscription name "));
    // The answers are in the order of the commands.
    client.send_raw(b"pub t {\nping\npub known {\nping\n");
    client.expect_all(&[unknown, "pong"]);
    assert!(client.line().starts_with("error: event is not of an accepted format: "));
    client.expect("pong");
}

#[test]
fn a_missing_permission_is_reported_before_an_error_of_the_event() {
    let broker = TestBroker::start("[auth]\ntokens = [{ token = \"s\", name = \"n\", publish = [\"ok\"] }]\n");
    let mut client = broker.telnet();
    client.asks("pub t nonsense", "error: authentication required");
    assert!(client.ask(r#"hello {"token":"s"}"#).starts_with("hello {"));
    client.asks("pub t nonsense", "error: not allowed to publish to topic t");
    assert!(client.ask("pub ok nonsense").starts_with("error: event is not of an accepted format: "));
}
