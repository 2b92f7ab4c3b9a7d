//! Lines, their limits, telnet's control bytes.

use herald_tests::{TestBroker, delivery, publish};

#[test]
fn commands_may_be_split_over_or_packed_into_segments_in_any_way() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    for byte in b"sub t\r\nping\r\n" {
        client.send_raw(&[*byte]);
    }
    client.expect_all(&["successfully subscribed to topic t", "pong"]);
    client.send_raw(
        format!("{}\nping\r\n  {}  \n\n\r\nack t a\nack\tt \t b\r\npi", publish("t", "a", 1), publish("t", "b", 9))
            .as_bytes(),
    );
    client.expect_all(&["pong"]);
    client.expect_all(&[
        delivery("t", "a", 1),
        "acknowledged from logs ev_id=a".into(),
        delivery("t", "b", 9),
        "acknowledged from logs ev_id=b".into(),
        "no available message".into(),
    ]);
    client.send_raw(b"ng\n");
    client.expect("pong");
}

#[test]
fn a_line_that_is_too_long_costs_itself_and_no_memory() {
    let broker = TestBroker::start("[broker]\nmax_line_bytes = 1000\n");
    let mut client = broker.telnet();
    client.asks(&"x".repeat(1001), "error: line exceeds 1000 bytes");
    let fits = format!("{:1000}", "ping");
    client.asks(&fits, "pong");
    let answer = client.ask(&"y".repeat(1000));
    assert!(answer.starts_with("error: unknown command: \"yyyy"), "{answer}");
    for _ in 0..100 {
        client.send_raw(&[b'z'; 100_000]);
    }
    client.send_raw(b"\nping\n");
    client.expect_all(&["error: line exceeds 1000 bytes", "pong"]);
    client.nothing();
}

#[test]
fn the_default_limit_is_a_mebibyte() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    let frame = r#"pub t {"id":"a","msg":""}"#.len();
    let text = "x".repeat((1 << 20) - frame);
    client.send(&format!(r#"pub t {{"id":"a","msg":"{text}"}}"#));
    client.expect(&format!(r#"{{"topic":"t","priority":0,"msg":"{text}","id":"a"}}"#));
    client.asks(&format!(r#"pub t {{"id":"b","msg":"{text}y"}}"#), "error: line exceeds 1048576 bytes");
}

#[test]
fn bytes_that_are_not_utf8_are_refused_and_telnets_control_bytes_are_taken_out() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send_raw(b"pi\xc3ng\r\n");
    client.expect("error: line is not valid UTF-8");
    // Ctrl-C in telnet: interrupt process, then a request for a timing mark.
    client.send_raw(b"pi\xff\xf4\xff");
    client.send_raw(b"\xfd\x06ng\r\n\xff\xfa\x18\x01\xff\xf0ping\n");
    client.expect_all(&["pong", "pong"]);
}

#[test]
fn command_words_are_matched_without_case_and_the_long_forms_always_work() {
    let broker = TestBroker::start(
        "[commands]\npublish = \"say\"\nsubscribe = \"listen\"\nunsubscribe = \"leave\"\nacknowledge = \"done\"\n",
    );
    let mut client = broker.telnet();
    client.asks("LISTEN t", "successfully subscribed to topic t");
    client.asks("SubScribe t", "successfully subscribed to topic t");
    client.send("Publish t {\"id\":\"a\",\"msg\":\"m\"}");
    client.expect(&delivery("t", "a", 0));
    client.send("say t {\"id\":\"b\",\"msg\":\"m\"}");
    client.send("ACKNOWLEDGE t a");
    client.expect_all(&["acknowledged from logs ev_id=a".into(), delivery("t", "b", 0)]);
    client.send("done t b");
    client.expect_all(&["acknowledged from logs ev_id=b", "no available message"]);
    client.asks("leave t", "successfully unsubscribe from topic t");
    client.asks("UNSUBSCRIBE t", "successfully unsubscribe from topic t");
    client.asks("sub t", r#"error: unknown command: "sub t"; type help for the commands"#);
    client.asks("say t", "error: usage: say <topic> <event>");
}

#[test]
fn an_error_never_closes_the_connection_and_quotes_at_most_80_characters() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    let long = "é\"".repeat(100);
    let quoted: String = long.chars().take(80).collect::<String>().replace('"', "\\\"");
    client.asks(&long, &format!("error: unknown command: \"{quoted}…\"; type help for the commands"));
    for name in ["a/b", "../../etc/passwd", ".hidden", "a\u{7f}b", "ä", "a,b"] {
        let answer = client.ask(&format!("sub {name}"));
        assert!(answer.starts_with(&format!("error: invalid topic name {}: ", serde_json::json!(name))), "{answer}");
        let answer = client.ask(&format!("sub t {name}"));
        assert!(
            answer.starts_with(&format!("error: invalid subscription name {}: ", serde_json::json!(name))),
            "{answer}"
        );
        let answer = client.ask(&format!("pub {name} nonsense"));
        assert!(answer.starts_with("error: invalid topic name "), "a topic error is reported first: {answer}");
    }
    let limit = "x".repeat(255);
    client.asks(&format!("sub {limit} {limit}"), &format!("successfully subscribed to topic {limit}"));
    assert!(client.ask(&format!("sub {limit}x")).starts_with("error: invalid topic name "));
    for (line, form) in [
        ("pub", "pub <topic> <event>"),
        ("sub", "sub <topic> [<name>]"),
        ("sub a b c", "sub <topic> [<name>]"),
        ("nack t a 1 2", "nack <topic> <id> [<delay_ms>]"),
        ("topics now", "topics"),
    ] {
        client.asks(line, &format!("error: usage: {form}"));
    }
}

#[test]
fn after_a_half_close_the_replies_still_come_and_an_unfinished_line_is_not_executed() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send_raw(b"hello {\"confirm\":true}\nsub t s\npub t {\"id\":\"a\"}\nping\npub t {\"id\":\"b\"}");
    client.half_close();
    let lines = client.rest();
    assert!(lines[0].starts_with("hello {"), "{lines:?}");
    assert_eq!(lines[1], "successfully subscribed to topic t");
    assert_eq!(lines[2], "published t a synced");
    assert!(lines[3..].contains(&"pong".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("\"b\"") || line.contains(" b ")), "{lines:?}");
}
