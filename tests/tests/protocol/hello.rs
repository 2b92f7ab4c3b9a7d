//! The options of a connection.

use herald_tests::{Telnet, TestBroker, delivery, publish};

fn hello(client: &mut Telnet, options: &str) -> serde_json::Value {
    let answer = client.ask(&format!("hello {options}"));
    let json = answer.strip_prefix("hello ").unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_answer_identifies_the_broker() {
    let broker = TestBroker::start("[broker]\nmax_line_bytes = 4096\n");
    let mut client = broker.telnet();
    let answer = client.ask("hello {}");
    let session =
        serde_json::from_str::<serde_json::Value>(&answer[6..]).unwrap()["session"].as_str().unwrap().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        answer,
        format!(
            r#"hello {{"server":"herald","version":"{version}","protocol":1,"session":"{session}","max_line_bytes":4096,"max_output_line_bytes":1048576}}"#
        )
    );
    let again = hello(&mut client, r#"{"client":"me","token":"ignored"}"#);
    assert_eq!(again["session"], session.as_str());
}

#[test]
fn an_invalid_field_is_named_and_nothing_is_applied() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    for (options, name) in [
        (r#"{"confirm":true,"prefetch":0}"#, "prefetch"),
        (r#"{"confirm":true,"prefetch":65536}"#, "prefetch"),
        (r#"{"confirm":true,"prefetch":1.5}"#, "prefetch"),
        (r#"{"confirm":true,"replies":"loud"}"#, "replies"),
        (r#"{"prefetch":5,"confirm":"yes"}"#, "confirm"),
        (r#"{"confirm":true,"client":7}"#, "client"),
        (r#"{"confirm":true,"token":[]}"#, "token"),
        (r#"{"confirm":true,"prefetsch":2}"#, "unknown field \"prefetsch\""),
        (r#"{"confirm":true,"confirm":true}"#, "\"confirm\" given twice"),
        (r#"{"confirm":true,"client":"a\u0007"}"#, "client"),
    ] {
        let answer = client.ask(&format!("hello {options}"));
        assert!(answer.starts_with("error: ") && answer.contains(name), "{options}: {answer}");
    }
    assert!(client.ask("hello").starts_with("error: usage: hello"));
    assert!(client.ask("hello nonsense").starts_with("error: "));
    client.send(&publish("t", "a", 0));
    client.nothing();
}

#[test]
fn prefetch_limits_the_events_in_flight_and_raising_it_delivers_at_once() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    hello(&mut client, r#"{"prefetch":2}"#);
    client.asks("sub t", "successfully subscribed to topic t");
    for id in ["a", "b", "c", "d", "e"] {
        client.send(&publish("t", id, 0));
    }
    client.expect_all(&[delivery("t", "a", 0), delivery("t", "b", 0)]);
    client.nothing();
    hello(&mut client, r#"{"prefetch":4}"#);
    client.expect_all(&[delivery("t", "c", 0), delivery("t", "d", 0)]);
    hello(&mut client, r#"{"prefetch":1}"#);
    client.asks("ack t a b c", "acknowledged from logs ev_id=a");
    client.expect_all(&["acknowledged from logs ev_id=b", "acknowledged from logs ev_id=c"]);
    client.nothing();
    client.send("ack t d");
    client.expect_all(&["acknowledged from logs ev_id=d".into(), delivery("t", "e", 0)]);
}

#[test]
fn confirmations_come_in_order_and_name_the_durability() {
    for (durability, level) in [("always", "synced"), ("interval", "written"), ("never", "memory")] {
        let broker = TestBroker::start(&format!("[storage]\ndurability = \"{durability}\"\n"));
        let mut client = broker.telnet();
        hello(&mut client, r#"{"confirm":true,"replies":"quiet"}"#);
        client.asks("sub t s", "successfully subscribed to topic t");
        client.send(r#"pub t {"id":"é\"x"}"#);
        let first = client.line();
        let mut seen = [first, client.line()];
        seen.sort();
        assert_eq!(seen[0], format!("published t é\"x {level}"));
        client.send(&format!(
            "{}\r\npub t {{\r\n{}\r\n{}",
            publish("t", "b", 0),
            publish("u", "c", 0),
            publish("t", "b", 1)
        ));
        client.expect(&format!("published t b {level}"));
        assert!(client.line().starts_with("error: event is not of an accepted format: "));
        client.expect_all(&[format!("published u c {level}"), format!("replaced t b {level}")]);
        if durability == "always" {
            assert!(!broker.log().contains("WARN"), "{}", broker.log());
        } else {
            assert!(broker.wait_for_log("WARN").contains(durability));
        }
    }
}

#[test]
fn quiet_omits_successes_but_not_errors() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    hello(&mut client, r#"{"replies":"quiet"}"#);
    client.asks("sub t", "successfully subscribed to topic t");
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    client.send("nack t a");
    client.expect(&herald_tests::redelivery("t", "a", 0, 1));
    client.send("ack t a b *x");
    client.expect_all(&["no_event_error: b", "no_event_error: *x"]);
    client.send("ack t *");
    client.nothing();
    client.asks("ack u a", "error: not a topic u subscriber");
    hello(&mut client, r#"{"replies":"verbose"}"#);
    client.asks("ack t *", "acknowledged 0 events");
}
