//! TLS on every transport, and the certificate's reload.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use herald_tests::{Authority, PATIENCE, TestBroker, herald, socket};
use rustix::process::Signal;
use transport_client::{Address, Client, ClientConfig, Connection, Error, Event, SubscribeOptions, TopicName};

/// A broker with TLS on TCP and WebSocket, whose certificate is of `authority`.
fn broker(authority: &Authority, more: &str) -> TestBroker {
    let mut broker = TestBroker::prepare(&format!(
        "[transports.tcp]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{more}\
         [transports.ws]\nlisten = \"127.0.0.1:0\"\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{more}"
    ));
    authority.issue(broker.dir());
    broker.run();
    broker
}

fn servers(broker: &TestBroker) -> [String; 2] {
    [format!("tls://127.0.0.1:{}", broker.addr().port()), format!("wss://localhost:{}", broker.addr_of("ws").port())]
}

fn config(server: &str, authority: &Authority) -> ClientConfig {
    ClientConfig::new(server.parse::<Address>().unwrap()).authorities(authority.pem())
}

async fn is_let_in(server: &str, authority: &Authority) -> Result<(), Error> {
    let mut connection = Connection::open(&config(server, authority)).await?;
    assert_eq!(connection.request_line("ping").await?, "pong");
    Ok(())
}

#[tokio::test]
async fn events_go_both_ways_on_every_transport() {
    let authority = Authority::new();
    let broker = broker(&authority, "");
    let topic = TopicName::new("t").unwrap();
    for server in servers(&broker) {
        let client = Client::connect(config(&server, &authority)).await.unwrap();
        let mut subscription =
            client.subscribe(topic.clone(), SubscribeOptions::default().prefetch(100)).await.unwrap();
        let big = "x".repeat(1_000_000);
        let events = (0..50).map(|n| Event::json(&(n, if n == 25 { &*big } else { "" })).unwrap());
        for confirmation in client.publish_many(&topic, events).await {
            confirmation.unwrap();
        }
        for n in 0..50 {
            let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
            assert_eq!(delivery.msg_as::<(i32, String)>().unwrap().0, n);
            subscription.ack(&delivery).await.unwrap();
        }
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_trusts_nobody_it_has_no_reason_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let broker = broker(&authority, "");
    for server in servers(&broker) {
        let error = is_let_in(&server, &other).await.unwrap_err();
        let Error::Unreachable { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains("certificate"), "{source}");
        // The operating system knows nothing of it either.
        let error = Connection::open(&ClientConfig::new(server.parse::<Address>().unwrap())).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    // A certificate of another host.
    let elsewhere = format!("tls://127.0.0.2:{}", broker.addr().port());
    assert!(is_let_in(&elsewhere, &authority).await.is_err());
}

#[tokio::test]
async fn a_new_certificate_is_in_force_after_a_hangup_and_a_bad_one_is_refused() {
    let (first, second) = (Authority::new(), Authority::new());
    let broker = broker(&first, "");
    let server = &servers(&broker)[0];
    let mut open = Connection::open(&config(server, &first)).await.unwrap();

    second.issue(broker.dir());
    broker.signal(Signal::HUP);
    let _ws_is_the_second =
        broker.wait_for_log("the certificate cert.pem was read again, for connections from now on transport=ws");
    for server in servers(&broker) {
        is_let_in(&server, &second).await.unwrap();
        is_let_in(&server, &first).await.unwrap_err();
    }
    assert_eq!(open.request_line("ping").await.unwrap(), "pong", "what is open goes on");

    let key = std::fs::read(broker.dir().join("key.pem")).unwrap();
    for (file, bad, reason) in [
        ("cert.pem", &b"no certificate"[..], "cert.pem has no certificate in it"),
        ("cert.pem", second.pem().as_bytes(), "cannot use the certificate cert.pem with the key key.pem"),
        ("key.pem", b"", "cannot use key.pem, which should be a PEM file with a private key"),
    ] {
        second.issue(broker.dir());
        std::fs::write(broker.dir().join(file), bad).unwrap();
        broker.signal(Signal::HUP);
        let line = broker.wait_for_log(reason);
        assert!(line.contains("ERROR") && line.contains("TLS is as before"), "{line}");
        is_let_in(server, &second).await.unwrap();
    }
    assert!(!broker.log().contains(&String::from_utf8(key).unwrap()[30..60]), "the key is nobody's business");
}

#[test]
fn a_certificate_that_cannot_be_used_is_an_error_at_the_start() {
    let broker = TestBroker::prepare("[transports.tcp]\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n");
    let output = broker.command().output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("transport tcp: TLS cannot be offered: cannot use cert.pem"), "{error}");
}

#[test]
fn who_does_not_finish_the_handshake_is_given_up() {
    let authority = Authority::new();
    let broker = broker(&authority, "handshake_timeout_ms = 700\n");
    for addr in [broker.addr(), broker.addr_of("ws")] {
        let mut stream = socket(addr);
        let began = Instant::now();
        stream.write_all(b"\x16\x03\x01").unwrap();
        let mut answer = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut answer);
        assert!((Duration::from_millis(600)..PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
        // A client in the clear.
        let mut stream = socket(addr);
        stream.write_all(b"ping\r\n").unwrap();
        let _reset_or_end = stream.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("pong"));
    }
}

#[test]
fn the_command_line_speaks_it() {
    let authority = Authority::new();
    let broker = broker(&authority, "");
    std::fs::write(broker.dir().join("ca.pem"), authority.pem()).unwrap();
    for server in servers(&broker) {
        let run = |args: &[&str]| {
            let mut command = Command::new(herald());
            command.current_dir(broker.dir()).args(args).args(["--server", &server]);
            let output = command.env_remove("HERALD_TOKEN").output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
        };
        let (status, out, _) = run(&["pub", "t", "{\"id\":\"1\"}", "--ca", "ca.pem"]);
        assert_eq!((status, out.as_str()), (Some(0), "published t 1 synced\n"));
        let (status, _, error) = run(&["topics"]);
        assert_eq!(status, Some(1));
        assert!(error.contains("--ca FILE trusts the certificates in a file"), "{error}");
        let (status, _, error) = run(&["topics", "--ca", "key.pem"]);
        assert_eq!(status, Some(2), "{error}");
    }
}
