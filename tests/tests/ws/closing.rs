//! Close codes and their reasons.

use std::io::Write as _;

use herald_tests::WebSocketClient;
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::{broker, client};

fn code(client: &mut WebSocketClient) -> (Vec<String>, u16) {
    let (messages, closed) = client.closed();
    (messages, closed.expect("a code").0)
}

#[test]
fn quit_is_answered_and_closes_normally() {
    let (_broker, mut client) = client("");
    client.send("quit");
    assert_eq!(client.closed(), (vec!["bye".to_owned()], Some((1000, "bye".to_owned()))));
}

#[test]
fn commands_before_an_invalid_message_are_answered_and_the_close_code_names_the_problem() {
    let (_broker, addr) = broker("");
    let bad = |bytes: &[u8]| {
        let mut client = WebSocketClient::connect(addr);
        let mut all = WebSocketClient::frame(0x81, b"ping");
        all.extend(bytes);
        client.stream().write_all(&all).unwrap();
        let (messages, code) = code(&mut client);
        assert_eq!(messages, ["pong"]);
        code
    };
    assert_eq!(bad(&WebSocketClient::frame(0x82, b"binary")), 1003);
    assert_eq!(bad(&WebSocketClient::frame(0x81, b"\xff")), 1007);
    assert_eq!(bad(&WebSocketClient::frame(0x81, &vec![b'x'; 1_048_579])), 1009);
    assert_eq!(bad(&WebSocketClient::frame(0x80, b"a continuation of nothing")), 1002);
    assert_eq!(bad(&WebSocketClient::frame(0xc1, b"compressed")), 1002);
    assert_eq!(bad(b"\x81\x04ping"), 1002, "not masked");
}

#[test]
fn a_full_server_greets_reports_its_limit_and_closes() {
    let (_broker, addr) = broker("max_connections = 1\n");
    let _first = WebSocketClient::connect(addr);
    let mut second = WebSocketClient::connect_as(addr, None).unwrap();
    let (messages, closed) = second.closed();
    assert_eq!(messages, ["Successfully connected to message_broker", "error: server is full: 1 connections"]);
    assert_eq!(closed, Some((1013, "server is full: 1 connections".to_owned())));
}

#[test]
fn a_stopping_broker_closes_with_1001() {
    let (mut broker, mut client) = client("");
    client.asks("ping", "pong");
    broker.signal(Signal::TERM);
    assert_eq!(client.closed(), (vec![], Some((1001, "the broker is stopping".to_owned()))));
    assert!(broker.wait().success());
}

#[test]
fn a_silent_client_is_closed_after_the_idle_timeout_even_if_it_sends_pings() {
    let (_broker, mut client) = client("idle_timeout_ms = 300\n");
    client.send_message(Message::Ping(Bytes::new()));
    let (messages, closed) = client.closed();
    assert_eq!((messages, closed.unwrap().0), (vec![], 1008));
}

#[test]
fn a_client_that_answers_pings_stays_connected_and_one_that_does_not_is_closed() {
    let (broker, addr) = broker("ping_interval_ms = 1500\n");
    let mut silent = WebSocketClient::connect(addr);
    // Without reading, the client answers no pings.
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(silent.closed(), (vec![], Some((1008, "no answer to a ping".to_owned()))));

    let mut answers = WebSocketClient::connect(addr);
    let mut telnet = broker.telnet();
    answers.asks("sub t", "successfully subscribed to topic t");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_secs(5));
            telnet.send("pub t {\"id\":\"1\"}");
        });
        answers.expect("{\"topic\":\"t\",\"priority\":0,\"msg\":null,\"id\":\"1\"}");
    });
}
