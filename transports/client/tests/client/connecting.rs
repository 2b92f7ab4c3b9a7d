//! Addresses, the handshake and the low-level connection.

use std::time::Duration;

use transport_client::{Client, ClientConfig, Connection, ConnectionState, Error};

use crate::peer::{GREETING, HELLO, Peer, soon, topic};

#[tokio::test]
async fn hello_carries_name_and_token_and_a_wrong_token_is_final() {
    let peer = Peer::bind().await;
    let config = peer.config().token("s3\"cret").name("billing\nx").retry_first_connect(true);
    let client = tokio::spawn(Client::connect(config));
    let mut wire = peer.accept().await;
    wire.send(GREETING).await;
    let hello = wire.line().await;
    let hello: serde_json::Value = serde_json::from_str(hello.strip_prefix("hello ").unwrap()).unwrap();
    assert_eq!((&hello["token"], &hello["client"]), (&"s3\"cret".into(), &"billing\nx".into()));
    assert_eq!(hello["confirm"], true);
    wire.send("error: authentication failed\r\n").await;
    drop(wire);
    let error = soon(client).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Auth { .. }), "{error:?}");
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_full_server_is_an_error_of_its_own_and_retried_if_asked_for() {
    let peer = Peer::bind().await;
    let full = format!("{GREETING}error: server is full: 3 connections\r\n");

    let client = tokio::spawn(Client::connect(peer.config()));
    let mut wire = peer.accept().await;
    wire.send(&full).await;
    drop(wire);
    let error = soon(client).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::ServerFull { reason } if reason == "server is full: 3 connections"), "{error:?}");

    let client = tokio::spawn(Client::connect(peer.config().retry_first_connect(true)));
    for _ in 0..3 {
        let mut wire = peer.accept().await;
        wire.send(&full).await;
    }
    let _wire = peer.greet().await;
    assert!(soon(client).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_the_connect_timeout() {
    let peer = Peer::bind().await;
    let config = peer.config().connect_timeout(Duration::from_millis(100));
    for greets in [false, true] {
        let client = tokio::spawn(Client::connect(config.clone()));
        let mut wire = peer.accept().await;
        if greets {
            wire.send(GREETING).await;
        }
        let error = soon(client).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        wire.closed().await;
    }
}

#[tokio::test]
async fn what_is_no_herald_is_a_protocol_error() {
    let peer = Peer::bind().await;
    for (says, expected) in [
        ("HTTP/1.1 400 Bad Request\r\n".to_owned(), "Protocol"),
        (format!("{GREETING}hello {{\"protocol\":2}}\r\n"), "Protocol"),
        (format!("{GREETING}error: unknown command: \"hello\" try help\r\n"), "Protocol"),
        (format!("{}\r\n", "x".repeat(5000)), "Protocol"),
        ("x".repeat(5000), "Protocol"),
        ("\u{0}\u{1}\u{2}\n".to_owned(), "Protocol"),
        // Half a line at the end of the stream is no line, and no greeting: so a port closes that expects TLS.
        (GREETING.trim_end().to_owned(), "Unreachable"),
    ] {
        let client = tokio::spawn(Client::connect(peer.config().max_line_bytes(4097)));
        let mut wire = peer.accept().await;
        wire.send(&says).await;
        drop(wire);
        let error = soon(client).await.unwrap().unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{says:.40}: {error:?}");
        assert!(error.to_string().len() < 300, "{error}");
    }
}

#[tokio::test]
async fn nobody_there_and_schemes_of_other_builds_are_told_apart() {
    let peer = Peer::bind().await;
    let config = peer.config();
    drop(peer);
    let error = soon(Client::connect(config)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_retryable(), "{error:?}");
    for (scheme, built) in [
        ("tls", cfg!(feature = "tls")),
        ("ws", cfg!(feature = "ws")),
        ("wss", cfg!(all(feature = "tls", feature = "ws"))),
    ] {
        let config = ClientConfig::new(format!("{scheme}://127.0.0.1:1").parse().unwrap());
        if built {
            let error = soon(Connection::open(&config)).await.unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
            continue;
        }
        assert!(matches!(Client::lazy(config.clone()), Err(Error::Unsupported { .. })));
        let error = soon(Connection::open(&config)).await.unwrap_err();
        assert!(error.to_string().contains("not supported by this build"), "{error}");
    }
}

#[tokio::test]
async fn answers_may_be_split_at_any_byte() {
    let peer = Peer::bind().await;
    let client = tokio::spawn(Client::connect(peer.config()));
    let mut wire = peer.accept().await;
    for byte in GREETING.chars() {
        wire.send(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    wire.line().await;
    for byte in HELLO.chars() {
        wire.send(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    let client = soon(client).await.unwrap().unwrap();
    let event = transport_client::Event::json("é").unwrap().with_id("é".parse().unwrap());
    let pending = client.send(topic(), event).await.unwrap();
    wire.published().await;
    let answer = "published t é synced\r\n".as_bytes();
    for byte in answer {
        use tokio::io::AsyncWriteExt as _;
        wire.writer.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(soon(pending).await.unwrap().id.as_str(), "é");
}

#[tokio::test]
async fn max_attempts_end_the_retrying() {
    let peer = Peer::bind().await;
    let mut backoff = transport_client::BackoffSettings { max_attempts: Some(3), ..Default::default() };
    backoff.initial = Duration::from_millis(1);
    let config = peer.config().backoff(backoff);
    drop(peer);
    let client = Client::lazy(config).unwrap();
    let error = soon(client.publish(topic(), transport_client::Event::json(&1).unwrap())).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let mut state = client.state();
    let ended = soon(state.wait_for(ConnectionState::is_ended)).await.unwrap().clone();
    assert!(matches!(ended, ConnectionState::Ended { reason: Error::Unreachable { .. } }), "{ended:?}");
}

#[tokio::test]
async fn a_plain_connection_asks_and_is_answered() {
    let peer = Peer::bind().await;
    let script = async {
        let (mut wire, hello) = peer.greet().await;
        assert_eq!(hello, serde_json::json!({}));
        assert_eq!(wire.line().await, "ping");
        wire.send("pong\r\n").await;
        assert_eq!(wire.line().await, "peek t 2");
        wire.send("{\"topic\":\"t\"}\r\n{\"topic\":\"t\"}\r\nend of peek\r\n").await;
        for (command, answer) in [
            ("peek t", "one\r\ntwo\r\nend of peek\r\n"),
            ("peek t 5 10", "end of peek\r\n"),
            ("redrive t", "redriven 17\r\n"),
            ("redrive t 3", "redriven 3\r\n"),
            ("purge t s", "purged 2\r\n"),
            ("purge t", "what\r\n"),
        ] {
            assert_eq!(wire.line().await, command);
            wire.send(answer).await;
        }
        assert_eq!(wire.line().await, "stats nope");
        wire.send("error: no such topic\r\n").await;
        assert_eq!(wire.line().await, "sub t");
        wire.send("successfully subscribed to topic t\r\n").await;
        assert_eq!(wire.line().await, "quit");
        wire.send("{\"topic\":\"t\"}\r\nbye\r\n").await;
        wire.closed().await;
    };
    let ask = async {
        let mut connection = Connection::open(&peer.config()).await.unwrap();
        assert_eq!((connection.server().protocol, connection.server().max_line_bytes), (1, 4096));
        assert_eq!(connection.request_line("ping").await.unwrap(), "pong");
        let lines = connection.request_until("peek t 2", |line| line == "end of peek").await.unwrap();
        assert_eq!(lines.len(), 3);
        let (topic, name) = ("t".parse().unwrap(), |name: &str| name.parse().unwrap());
        assert_eq!(connection.peek(&topic, None, None).await.unwrap(), ["one", "two"]);
        // A name of digits alone is not taken for a number.
        assert!(connection.peek(&topic, Some(&name("5")), None).await.unwrap().is_empty());
        assert_eq!(connection.redrive(&topic, None).await.unwrap(), 17);
        assert_eq!(connection.redrive(&topic, Some(3)).await.unwrap(), 3);
        assert_eq!(connection.purge(&topic, Some(&name("s"))).await.unwrap(), 2);
        let error = connection.purge(&topic, None).await.unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
        let error = connection.request_line("stats nope").await.unwrap_err();
        assert!(matches!(&error, Error::Refused { reason } if reason == "no such topic"), "{error:?}");
        let error = connection.send_line("ping\nquit").await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        let error = connection.send_line(&"x".repeat(4097)).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { bytes: 4097, limit: 4096 }), "{error:?}");
        connection.send_line("sub t").await.unwrap();
        assert_eq!(connection.recv_line().await.unwrap().unwrap(), "successfully subscribed to topic t");
        connection.quit().await.unwrap();
    };
    soon(async { tokio::join!(script, ask) }).await;
}

#[tokio::test]
async fn a_plain_connection_never_takes_an_abandoned_answer_for_the_next() {
    let peer = Peer::bind().await;
    let config = peer.config().response_timeout(Duration::from_millis(50));
    let (connection, (mut wire, _)) = soon(async { tokio::join!(Connection::open(&config), peer.greet()) }).await;
    let mut connection = connection.unwrap();
    let error = soon(connection.request_line("topics")).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    wire.send("[]\r\n").await;
    let error = soon(connection.request_line("stats")).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn the_end_of_the_stream_is_no_line_and_half_a_line_is_none_either() {
    let peer = Peer::bind().await;
    let config = peer.config();
    let (connection, (mut wire, _)) = soon(async { tokio::join!(Connection::open(&config), peer.greet()) }).await;
    let mut connection = connection.unwrap();
    wire.send("whole\r\nhalf").await;
    drop(wire);
    assert_eq!(soon(connection.recv_line()).await.unwrap().unwrap(), "whole");
    assert_eq!(soon(connection.recv_line()).await.unwrap(), None);
}

#[tokio::test]
async fn an_answer_without_end_is_bounded() {
    let peer = Peer::bind().await;
    let config = peer.config().max_line_bytes(8192);
    let (connection, (mut wire, _)) = soon(async { tokio::join!(Connection::open(&config), peer.greet()) }).await;
    let mut connection = connection.unwrap();
    wire.send(&"more\r\n".repeat(2000)).await;
    let error = soon(connection.request_until("help", str::is_empty)).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}
