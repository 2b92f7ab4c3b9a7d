//! Ids: which are valid, how they are written back, and how they are matched.

use herald_tests::TestBroker;

/// Ids as published, and as returned in replies and in JSON.
const ACCEPTED: &[(&str, &str, &str)] = &[
    (r#""\u0041\/""#, "A/", "A/"),
    (r#""\ud83d\ude00""#, "😀", "😀"),
    (r#""\u200b""#, "\u{200b}", "\u{200b}"),
    (r#""*""#, "*", "*"),
    (r#""a\"\\b""#, "a\"\\b", r#"a\"\\b"#),
    ("0", "0", "0"),
    ("-0", "-0", "-0"),
    ("123456789012345678901234567890", "123456789012345678901234567890", "123456789012345678901234567890"),
];

#[test]
fn an_id_is_acknowledged_by_its_decoded_text() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    for (written, id, quoted) in ACCEPTED {
        client.send(&format!("pub t {{\"id\":{written}}}"));
        client.expect(&format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":null,\"id\":\"{quoted}\"}}"));
        if *id == "*" {
            client.asks("ack t *", "acknowledged 1 events");
        } else {
            client.asks(&format!("ack t {id}"), &format!("acknowledged from logs ev_id={id}"));
        }
        client.expect("no available message");
    }
}

#[test]
fn an_integer_and_the_string_of_its_digits_are_one_id() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    client.asks(r#"pub t {"id":7,"msg":1}"#, "published t 7 synced");
    client.asks(r#"pub t {"id":"7","msg":2}"#, "replaced t 7 synced");
    client.asks(r#"pub t {"id":"\u0037","msg":3}"#, "replaced t 7 synced");
    client.asks(r#"pub t {"id":"07","msg":4}"#, "published t 07 synced");
    client.asks("sub t s", "successfully subscribed to topic t");
    client.expect(r#"{"topic":"t","priority":0,"msg":3,"id":"7"}"#);
}

#[test]
fn ids_have_at_most_255_bytes() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    let longest = "é".repeat(127) + "x";
    client.send(&format!("pub t {{\"id\":\"{longest}\"}}"));
    client.expect(&format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":null,\"id\":\"{longest}\"}}"));
    client.asks(&format!("ack t {longest}"), &format!("acknowledged from logs ev_id={longest}"));
    client.expect("no available message");
    let answer = client.ask(&format!("pub t {{\"id\":\"{longest}x\"}}"));
    assert!(answer.starts_with("error: event is not of an accepted format: "), "{answer}");
}

#[test]
fn white_space_control_characters_and_lone_surrogates_are_refused_in_ids() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    for id in [
        r"\u0020",
        r"\t",
        r"\u0000",
        r"\u007f",
        r"\u0085",
        r"\u00a0",
        r"\u2003",
        r"\u2028",
        r"\u3000",
        r"\ud800",
        r"\udc00\ud800",
    ] {
        for id in [id.to_owned(), format!("a{id}"), format!("{id}b")] {
            let answer = client.ask(&format!("pub t {{\"id\":\"{id}\"}}"));
            assert!(answer.starts_with("error: event is not of an accepted format: id"), "{id}: {answer}");
        }
    }
    for id in ["{}", "[]", "true", "1e3", "1.0", "-", "01", "+1"] {
        let answer = client.ask(&format!("pub t {{\"id\":{id}}}"));
        assert!(answer.starts_with("error: event is not of an accepted format: "), "{id}: {answer}");
    }
}
