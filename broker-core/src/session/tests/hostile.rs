//! Clients that try to exceed their limits.

use super::super::MAX_OUTPUT_BYTES;
use super::*;
use crate::auth::Tokens;
use crate::engine::TopicStats;
use crate::event::{EventKey, Seq};
use crate::protocol::foreign::Foreign;

#[test]
fn an_error_never_quotes_more_than_a_little() {
    let mut client = Client::new();
    let long = "x".repeat(500_000);
    let said = client.exchange(&format!("pub t \"{long}\""), Outcome::Known);
    assert!(said.starts_with("error: ") && said.len() < 300, "{} bytes: {:.200}", said.len(), said);
    for line in [format!("hello {{\"{long}\":1}}"), format!("hello {long}"), long] {
        let said = client.answer(&line);
        assert!(said.starts_with("error: ") && said.len() < 300, "{} bytes: {:.200}", said.len(), said);
    }
}

#[test]
fn short_commands_with_long_answers_are_executed_as_the_answers_are_taken() {
    let mut client = Client::new();
    client.send(&"help\n".repeat(1000));
    assert!(client.session.output().remaining() < 300_000 && !client.session.wants_input());
    let mut answers = 0;
    while client.session.output().has_remaining() {
        answers += client.said().matches("\r\n\r\n").count();
    }
    assert_eq!(answers, 1000);
    assert!(client.session.wants_input());
}

#[test]
fn answers_that_wait_for_an_earlier_one_are_bounded() {
    let mut client = Client::new();
    client.send("sub t\n");
    client.send(&"help\n".repeat(10_000));
    assert!(!client.session.wants_input());
    let request = client.requests().remove(0);
    client.outcome(request.slot, Outcome::Subscribed);
    let mut text = String::new();
    while client.session.output().has_remaining() {
        text += &client.said();
    }
    assert_eq!(text.matches("\r\n\r\n").count(), 10_000);
    assert!(client.session.wants_input());
}

#[test]
fn figures_are_asked_a_few_at_a_time() {
    let mut client = Client::new();
    client.send(&"topics\nstats\n".repeat(4500));
    let mut answered = 0;
    loop {
        let requests = client.requests();
        if requests.is_empty() {
            break;
        }
        assert!(requests.len() <= 4, "{}", requests.len());
        for request in requests {
            client.outcome(request.slot, Outcome::Topics(Vec::new()));
            answered += 1;
        }
        client.said();
    }
    assert_eq!(answered, 9000);
}

#[test]
fn unanswered_acknowledgements_are_bounded_and_make_room_when_they_are_answered() {
    let mut client = Client::new();
    let line = format!("ack t {}\n", "a ".repeat(500_000));
    client.send(&line);
    assert!(!client.session.wants_input());
    let request = client.requests().remove(0);
    client.outcome(request.slot, Outcome::Acknowledged { found: vec![Found::Settled; 500_000], idle: false });
    assert_eq!(client.said().lines().count(), 500_000);
    assert!(client.session.wants_input());
}

#[test]
fn a_client_whose_engine_has_gone_is_told_once_and_finished() {
    let mut client = Client::new();
    client.send("hello {\"confirm\":true}\npub t {\"id\":\"1\",\"msg\":1}\n");
    let asked = client.requests().len();
    assert_eq!(asked, 1);
    client.deliver("held back by nothing", 0);
    client.said();
    client.send("ack t 1\n");
    client.session.engine_gone();
    // Its requests are dropped, and further input is not executed.
    assert!(client.requests().is_empty());
    client.send("ping\n");
    client.session.engine_gone();
    let said = client.said();
    assert!(said.starts_with("error: the storage was opened again") && said.ends_with("connect again\r\n"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(client.session.is_finished());
}

/// None of the request's lines is executed, however it is split.
#[test]
fn nothing_of_an_http_request_is_executed() {
    let long = format!("GET /{} HTTP/1.1\r\npurge t s\r\n", "x".repeat(2 << 20));
    for request in [
        "POST / HTTP/1.1\r\nHost: localhost:8000\r\n\r\npurge t s\r\nping\r\n",
        "\r\nGET http://a/ HTTP/1.0\nping\n",
        "nonsense\r\nhost: localhost\r\nping\r\n",
        "GET /\u{e9} HTTP/1.1\nping\n",
        &long,
    ] {
        for pieces in [request.as_bytes().chunks(request.len()), request.as_bytes().chunks(7)] {
            let mut client = Client::new();
            for piece in pieces {
                client.session.input(&mut BytesMut::from(piece));
            }
            assert!(client.requests().is_empty());
            let said = client.said();
            let response =
                said.find("HTTP/1.1 400 Bad Request\r\n").map(|at| &said[at..]).unwrap_or_else(|| panic!("{said}"));
            assert!(response.ends_with("\r\n\r\nthis port speaks Herald's line protocol, not HTTP\r\n"), "{response}");
            assert!(!said.contains("pong"));
            assert!(client.session.is_finished());
            assert_eq!(client.session.foreign(), Some(Foreign::Http));
        }
    }
}

#[test]
fn after_a_valid_command_http_is_no_more_than_an_unknown_command() {
    let mut client = Client::new();
    assert_eq!(client.answer("ping"), "pong\r\n");
    for line in ["GET / HTTP/1.1", "Host: localhost"] {
        assert!(client.answer(line).starts_with("error: unknown command: "), "{line}");
    }
    assert_eq!(client.session.foreign(), None);
}

#[test]
fn a_tls_hello_ends_the_session_without_a_reply() {
    let mut client = Client::new();
    client.session.input(&mut BytesMut::from(&b"\x16\x03\x01\x00\xa5\x01\nping\n"[..]));
    assert_eq!(client.said(), "");
    assert!(client.session.is_finished());
    assert_eq!(client.session.foreign(), Some(Foreign::Tls));
}

#[test]
fn telnets_questions_are_answered_in_their_place() {
    let mut client = Client::new();
    client.session.input(&mut BytesMut::from(&b"nonsense\n\xff\xf6ping\r\0\xff\xf6wrong\xff\xf4pinx\xff\xf7g\n"[..]));
    let unknown = "error: unknown command: \"nonsense\"; type help for the commands\r\n";
    assert_eq!(client.said(), format!("{unknown}{}", "pong\r\n".repeat(4)));
}

#[test]
fn a_note_is_cut_at_a_character_and_weighed() {
    let mut client = Client::new();
    for (text, expected) in [
        ("x".repeat(1024), "x".repeat(1024)),
        ("x".repeat(1025), format!("{}…", "x".repeat(1021))),
        (format!("x{}", "ä".repeat(600)), format!("x{}…", "ä".repeat(510))),
        ("€".repeat(300_000), format!("{}…", "€".repeat(340))),
    ] {
        client.send(&format!("term t 1 {text}\n"));
        let request = client.requests().remove(0);
        let Op::Terminate { note: Some(note), .. } = request.op else { panic!("{:?}", request.op) };
        assert_eq!(*note, *expected);
        assert!(note.len() <= 1024);
        client.outcome(request.slot, Outcome::Settled { found: true });
        assert_eq!(client.said(), "terminated ev_id=1\r\n");
    }
    let line = format!("term t 1 {}\n", "x".repeat(1000));
    client.send(&line.repeat(10_000));
    assert!(!client.session.wants_input());
    assert!(client.requests().len() < (4 << 20) / 1000);
}

#[test]
fn a_peek_is_answered_in_parts_as_they_are_taken_and_deliveries_wait_for_its_end() {
    let mut client = Client::new();
    client.send("peek t s 5\nping\n");
    let event = |id: &str| Delivery { payload: Payload::encode("t", Priority(0), "1", id), redelivered: 0 };
    let key = |seq| EventKey { priority: Priority(0), seq: Seq(seq) };
    let [request] = &client.requests()[..] else { panic!() };
    let slot = request.slot;
    client.outcome(slot, Outcome::Peeked { deliveries: vec![event("a"), event("b")], next: Some(key(7)) });
    client.deliver("not peeked", 0);
    let [request] = &client.requests()[..] else { panic!("there is room for the next part") };
    let Op::Peek { most: 3, after: Some(after), .. } = &request.op else { panic!("{request:?}") };
    assert_eq!((request.slot, *after), (slot, key(7)));
    let line = |id: &str| format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":1,\"id\":\"{id}\"}}\r\n");
    assert_eq!(client.said(), line("a") + &line("b"));
    // While the client does not read, no further part is requested.
    let big = Payload::encode("t", Priority(0), &format!("\"{}\"", "x".repeat(MAX_OUTPUT_BYTES)), "big");
    let deliveries = vec![Delivery { payload: big, redelivered: 0 }];
    client.outcome(slot, Outcome::Peeked { deliveries, next: Some(key(8)) });
    assert!(client.requests().is_empty());
    assert!(client.said().ends_with("\"id\":\"big\"}\r\n"));
    assert_eq!(client.requests().len(), 1);
    client.outcome(slot, Outcome::Peeked { deliveries: vec![event("c")], next: None });
    assert_eq!(client.said(), line("c") + "end of peek\r\n" + &line("not peeked") + "pong\r\n");
}

#[test]
fn a_peek_after_a_position_says_where_it_stopped() {
    let mut client = Client::new();
    let event = |id: &str| Delivery { payload: Payload::encode("t", Priority(0), "1", id), redelivered: 0 };
    let key = EventKey { priority: Priority(-4), seq: Seq(7) };
    for (command, next, end) in [
        ("peek t s 1 after start\n", Some(key), "end of peek after -4:7\r\n"),
        ("peek t s 1 after start\n", None, "end of peek\r\n"),
        ("peek t s 1\n", Some(key), "end of peek\r\n"),
    ] {
        client.send(command);
        let request = client.requests().remove(0);
        client.outcome(request.slot, Outcome::Peeked { deliveries: vec![event("a")], next });
        assert!(client.said().ends_with(&format!("}}\r\n{end}")), "{command}");
        assert!(client.requests().is_empty());
    }
}

#[test]
fn lists_of_topics_are_one_line_however_many_parts_they_have() {
    let tokens = Arc::new(Tokens::new([("right", tokens::rights("a.*", "b.*"))]));
    let summary =
        |topic: &str| TopicSummary { topic: topic.into(), subscriptions: 0, waiting: 0, in_flight: 0, published: 0 };
    for locked in [false, true] {
        let mut client = if locked { tokens::client(&tokens) } else { Client::new() };
        if locked {
            client.send("hello {\"token\":\"right\"}\n");
            client.session.check_claim();
            client.said();
        }
        client.send("topics\nping\n");
        let mut line = String::new();
        for (topics, next) in
            [(&["a.1", "a.2"][..], Some("a.2")), (&["b.1"], Some("b.1")), (&[], Some("b.2")), (&["b.3"], None)]
        {
            let requests = client.requests();
            let [request] = &requests[..] else { panic!("{requests:?}") };
            let next = next.map(|name| TopicName::new(name).unwrap());
            let topics = topics.iter().map(|topic| summary(topic)).collect();
            client.outcome(request.slot, Outcome::TopicsPage { topics, next });
            line += &client.said();
        }
        let list: serde_json::Value = serde_json::from_str(line.strip_suffix("\r\npong\r\n").unwrap()).unwrap();
        let names: Vec<_> = list.as_array().unwrap().iter().map(|item| item["topic"].as_str().unwrap()).collect();
        assert_eq!(names, ["a.1", "a.2", "b.1", "b.3"]);
    }
    let mut client = Client::new();
    client.send("stats\n");
    let stats = |topics: &[&str]| {
        let topics =
            topics.iter().map(|topic| TopicStats { topic: (*topic).into(), published: 1, subscriptions: Vec::new() });
        Box::new(Stats { version: "1", uptime_ms: 2, connections: 3, sources: None, topics: topics.collect() })
    };
    let slot = client.requests()[0].slot;
    client.outcome(slot, Outcome::StatsPage { stats: stats(&["a"]), next: TopicName::new("a").ok() });
    let mut line = client.said();
    // The engine goes away in the middle of the line; the next output starts a new line.
    let mut gone = Client::new();
    gone.send("stats\n");
    let slot_gone = gone.requests()[0].slot;
    gone.outcome(slot_gone, Outcome::StatsPage { stats: stats(&["a"]), next: TopicName::new("a").ok() });
    gone.session.engine_gone();
    assert!(gone.said().contains("\r\nerror: the storage was opened again"));
    client.outcome(slot, Outcome::StatsPage { stats: stats(&["b"]), next: None });
    line += &client.said();
    assert_eq!(
        line,
        "{\"version\":\"1\",\"uptime_ms\":2,\"connections\":3,\"topics\":[{\"topic\":\"a\",\"published\":1,\"subscriptions\":[]},\
         {\"topic\":\"b\",\"published\":1,\"subscriptions\":[]}]}\r\n"
    );
}
