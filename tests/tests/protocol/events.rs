//! The JSON of an event, and errors in it.

use herald_tests::{TestBroker, delivery, publish};

#[test]
fn an_event_is_delivered_with_its_keys_in_order_and_its_message_byte_for_byte() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"prefetch":100}"#).starts_with("hello {"));
    client.asks("sub t", "successfully subscribed to topic t");
    for (event, line) in [
        (
            r#"{"msg": {"b" : [1,  2e400, -0.0]} ,"priority":-3,"id":"x"}"#,
            r#"{"topic":"t","priority":-3,"msg":{"b" : [1,  2e400, -0.0]},"id":"x"}"#,
        ),
        (r#"{"id":17,"msg":null}"#, r#"{"topic":"t","priority":0,"msg":null,"id":"17"}"#),
        (
            r#"{"id":-12345678901234567890123}"#,
            r#"{"topic":"t","priority":0,"msg":null,"id":"-12345678901234567890123"}"#,
        ),
        (
            r#"{"\u0069\u0064":"\u00e9\u2603\"\\","priority":null}"#,
            r#"{"topic":"t","priority":0,"msg":null,"id":"é☃\"\\"}"#,
        ),
        (
            r#"{"id":"u","other":{"id":1},"other":2,"msg":"\ud800\u0000 é"}"#,
            r#"{"topic":"t","priority":0,"msg":"\ud800\u0000 é","id":"u"}"#,
        ),
        (
            r#"{"id":"f","msg":123456789012345678901234567890.5}"#,
            r#"{"topic":"t","priority":0,"msg":123456789012345678901234567890.5,"id":"f"}"#,
        ),
    ] {
        client.send(&format!("pub t {event}"));
        client.expect(line);
    }
    client.send(r#"pub t {"id":null,"msg":"generated"}"#);
    let line = client.line();
    let id = herald_tests::id_of(&line);
    assert_eq!(line, format!(r#"{{"topic":"t","priority":0,"msg":"generated","id":"{id}"}}"#));
    assert!(id.len() == 36 && id.as_bytes()[14] == b'7', "a UUID of version 7: {id}");
}

#[test]
fn an_invalid_event_is_an_error_and_affects_no_other() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    let deep = |n: usize| format!("{{\"msg\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let bad = [
        "nonsense".to_owned(),
        "[1]".into(),
        "\"text\"".into(),
        "17".into(),
        "null".into(),
        "{} trailing".into(),
        r#"{"id":"a","#.into(),
        r#"{"id":"a","id":"b"}"#.into(),
        r#"{"id":"a","\u0069d":"a"}"#.into(),
        r#"{"priority":1,"priority":1}"#.into(),
        r#"{"msg":1,"msg":2}"#.into(),
        r#"{"ttl_ms":1,"ttl_ms":1}"#.into(),
        r#"{"priority":1.0}"#.into(),
        r#"{"priority":1e2}"#.into(),
        r#"{"priority":"1"}"#.into(),
        r#"{"priority":2147483648}"#.into(),
        r#"{"priority":-2147483649}"#.into(),
        r#"{"id":""}"#.into(),
        r#"{"id":"a b"}"#.into(),
        r#"{"id":"a\u00a0b"}"#.into(),
        r#"{"id":"a\u0007"}"#.into(),
        r#"{"id":1.5}"#.into(),
        r#"{"id":true}"#.into(),
        format!(r#"{{"id":"{}"}}"#, "x".repeat(256)),
        r#"{"ttl_ms":-1}"#.into(),
        r#"{"delay_ms":9007199254740992}"#.into(),
        r#"{"msg":01}"#.into(),
        deep(128),
        deep(100_000),
    ];
    for event in &bad {
        client.send(&format!("pub t {event}"));
        let answer = client.line();
        assert!(answer.starts_with("error: event is not of an accepted format: "), "{event}: {answer}");
    }
    client.send(&format!("pub t {}", deep(127).replace("{\"msg\"", "{\"id\":\"deep\",\"msg\"")));
    assert!(client.line().ends_with("]]]],\"id\":\"deep\"}"));
    // Valid and invalid events in one write.
    client.send_raw(format!("{}\npub t {{\n{}\n", publish("t", "a", 0), publish("t", "b", 0)).as_bytes());
    let answer = client.line();
    assert!(answer.starts_with("error: event is not of an accepted format: EOF"), "{answer}");
    client.send("ack t deep");
    client.expect_all(&["acknowledged from logs ev_id=deep".into(), delivery("t", "a", 0)]);
    client.send("ack t a");
    client.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 0)]);
}

#[test]
fn a_delayed_event_comes_after_its_delay_and_an_expired_one_never_comes() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    let began = std::time::Instant::now();
    client.send(r#"pub t {"id":"late","priority":9,"msg":"m","delay_ms":1500}"#);
    client.send(&publish("t", "now", 0));
    client.expect(&delivery("t", "now", 0));
    client.send("ack t now");
    client.expect_all(&["acknowledged from logs ev_id=now", "no available message"]);
    client.expect(&delivery("t", "late", 9));
    assert!(began.elapsed().as_millis() >= 1500);
    client.send(r#"pub t {"id":"short","priority":9,"msg":"m","ttl_ms":50}"#);
    client.send(r#"pub t {"id":"long","msg":"m","ttl_ms":9007199254740991}"#);
    client.nothing();
    client.send("ack t late");
    client.expect_all(&["acknowledged from logs ev_id=late".into(), delivery("t", "long", 0)]);
}
