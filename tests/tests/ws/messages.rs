//! Lines in WebSocket messages.

use herald_tests::{WebSocketClient, delivery, publish};
use tokio_tungstenite::tungstenite::Message;

use crate::{broker, client};

#[test]
fn a_message_may_hold_several_lines_and_its_end_completes_the_last() {
    let (_broker, mut client) = client("");
    client.send("sub t\r\npub t {\"id\":\"1\",\"msg\":\"m\"}\n\n  ping");
    client.expect("successfully subscribed to topic t");
    // A reply is in order, but a delivery may come before or after it.
    let mut both = [client.message().unwrap(), client.message().unwrap()];
    both.sort();
    assert_eq!(both, ["pong".to_owned(), delivery("t", "1", 0)]);
    client.send("ack t 1");
    client.expect("acknowledged from logs ev_id=1");
    client.expect("no available message");
    client.asks("nonsense", "error: unknown command: \"nonsense\"; type help for the commands");
}

#[test]
fn a_message_in_fragments_of_one_byte_is_one_message() {
    let (_broker, mut client) = client("");
    let text = "pub nowhere {\"msg\":\"ä\"}\nping".as_bytes();
    let mut bytes = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        let first = match at {
            0 => 0x01,
            at if at == text.len() - 1 => 0x80,
            _ => 0x00,
        };
        bytes.extend(WebSocketClient::frame(first, &[*byte]));
        // A ping may come between fragments.
        if at == 3 {
            bytes.extend(WebSocketClient::frame(0x89, b"?"));
        }
    }
    std::io::Write::write_all(client.stream(), &bytes).unwrap();
    client.expect("pong");
}

#[test]
fn subscribers_on_both_transports_receive_the_same_events() {
    let (broker, mut client) = client("");
    let mut telnet = broker.telnet();
    client.asks("sub t group", "successfully subscribed to topic t");
    telnet.asks("sub t group", "successfully subscribed to topic t");
    client.send(&publish("t", "1", 5));
    let first = client.message();
    telnet.send(&publish("t", "2", 5));
    let mut got = vec![first.unwrap(), telnet.line()];
    got.sort();
    assert_eq!(got, [delivery("t", "1", 5), delivery("t", "2", 5)]);
}

#[test]
fn a_large_event_and_a_long_answer_arrive_whole() {
    let (_broker, mut client) = client("");
    client.asks("sub big", "successfully subscribed to topic big");
    let text = "x".repeat(1_000_000);
    client.send(&format!("pub big {{\"id\":\"1\",\"msg\":\"{text}\"}}"));
    client.expect(&format!("{{\"topic\":\"big\",\"priority\":0,\"msg\":\"{text}\",\"id\":\"1\"}}"));
    client.send("ack big 1");
    client.expect("acknowledged from logs ev_id=1");
    client.expect("no available message");
    let topics: String = (0..3000).map(|n| format!("sub topic-with-a-long-name-{n}\n")).collect();
    client.send(&topics);
    for n in 0..3000 {
        client.expect(&format!("successfully subscribed to topic topic-with-a-long-name-{n}"));
    }
    client.send("topics");
    let answer = client.message().unwrap();
    let topics: Vec<serde_json::Value> = serde_json::from_str(&answer).unwrap();
    assert_eq!(topics.len(), 3001);
}

#[test]
fn the_longest_line_passes_and_a_longer_message_does_not() {
    let (_broker, addr) = broker("[broker]\nmax_line_bytes = 1000\n");
    let mut client = WebSocketClient::connect(addr);
    let line = |bytes: usize| format!("ping{}", " ".repeat(bytes - 4));
    client.asks(&line(1000), "pong");
    client.asks(&format!("{}\r\n", line(1000)), "pong");
    client.asks(&line(1001), "error: line exceeds 1000 bytes");
    client.send(&line(1003));
    assert_eq!(client.closed(), (vec![], Some((1009, "message exceeds 1002 bytes".to_owned()))));
}

#[test]
fn commands_sent_before_the_close_are_executed() {
    let (broker, mut client) = client("");
    let mut telnet = broker.telnet();
    telnet.asks("sub t mine", "successfully subscribed to topic t");
    for n in 0..1000 {
        client.send(&publish("t", &n.to_string(), 0));
    }
    client.send_message(Message::Close(None));
    drop(client);
    broker.wait_for_figures("t", &[("waiting", 999), ("in_flight", 1)]);
}
