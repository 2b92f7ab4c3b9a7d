//! Lines, their limits, and telnet's control bytes.

use std::io::Read as _;

use herald_tests::{Telnet, TestBroker, delivery, publish};

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
    // The output limit is high enough that no event is refused because of it.
    let broker = TestBroker::start("[broker]\nmax_output_line_bytes = 2097152\n");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    let frame = r#"pub t {"id":"a","msg":""}"#.len();
    let text = "x".repeat((1 << 20) - frame);
    client.send(&format!(r#"pub t {{"id":"a","msg":"{text}"}}"#));
    client.expect(&format!(r#"{{"topic":"t","priority":0,"msg":"{text}","id":"a"}}"#));
    client.asks(&format!(r#"pub t {{"id":"b","msg":"{text}y"}}"#), "error: line exceeds 1048576 bytes");
}

#[test]
fn invalid_utf8_is_refused_and_telnets_control_bytes_are_removed() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send_raw(b"pi\xc3ng\r\n");
    client.expect("error: line is not valid UTF-8");
    // Refused options and a subnegotiation.
    client.send_raw(b"pi\xff\xfe\x01ng\r\n\xff\xfa\x18\x01\xff\xf0ping\n");
    client.expect_all(&["pong", "pong"]);
}

/// Reads until `expected` has arrived.
fn expect_bytes(client: &Telnet, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    client.stream().read_exact(&mut got).unwrap();
    assert_eq!(got, expected, "{}", String::from_utf8_lossy(&got));
}

/// telnet shows nothing after Ctrl-C until its timing mark is answered.
#[test]
fn a_timing_mark_is_answered_after_ctrl_c_which_also_drops_the_line() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send_raw(b"pub t {\xff\xf4\xff");
    client.send_raw(b"\xfd\x06ping\r\n");
    expect_bytes(&client, b"\xff\xfb\x06pong\r\n");
    // The mark that ends the interrupt arrives as urgent data, and must not be lost.
    client.send_raw(b"\xff\xf4");
    rustix::net::send(client.stream(), b"\xff\xf2", rustix::net::SendFlags::OOB).unwrap();
    client.send_raw(b"\xff\xfd\x06ping\r\n");
    expect_bytes(&client, b"\xff\xfb\x06pong\r\n");
}

#[test]
fn telnet_options_are_refused_once_and_later_commands_are_answered() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send_raw(b"\xff\xfd\x03\xff\xfb\x18\xff\xfd\x03\xff\xfb\x18\xff\xfe\x05\xff\xfc\x05\xff\xf6");
    expect_bytes(&client, b"\xff\xfc\x03\xff\xfe\x18pong\r\n");
    client.send_raw(b"pinx\xff\xf7g\r\0wrong\xff\xf8ping\r\0wrong\xff\xf3ping\r\0");
    client.expect_all(&["pong", "pong", "pong"]);
    client.nothing();
}

/// The requests that a web page can make a browser send.
#[test]
fn an_http_request_is_answered_closed_logged_and_nothing_of_it_is_executed() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    for request in [
        "POST / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: 99\r\n\r\npub t {}\r\nunsub t s\r\n",
        "Accept: */*\r\nHost: 127.0.0.1:8000\r\n\r\nunsub t s\r\n",
    ] {
        let mut http = broker.telnet();
        http.send_raw(request.as_bytes());
        let said = http.rest();
        let response =
            said.iter().position(|line| line == "HTTP/1.1 400 Bad Request").unwrap_or_else(|| panic!("{said:?}"));
        assert!(
            said[response..].iter().any(|line| line == "this port speaks Herald's line protocol, not HTTP"),
            "{said:?}"
        );
    }
    let line = broker.wait_for_log("HTTP request refused: this port speaks the line protocol");
    assert!(line.contains("WARN"), "{line}");
    assert!(client.ask("stats t").contains("\"published\":0"));
    client.asks("unsub t s", "successfully unsubscribe from topic t");
}

#[test]
fn command_words_ignore_case_and_the_long_forms_always_work() {
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
fn after_a_half_close_replies_still_arrive_and_an_unfinished_line_is_not_executed() {
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
