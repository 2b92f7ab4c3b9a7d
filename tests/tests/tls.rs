//! TLS on every transport, and reloading the certificate.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_tests::{Authority, PATIENCE, TestBroker, herald, socket};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use transport_client::{Address, Client, ClientConfig, Connection, Error, Event, SubscribeOptions, TopicName};

/// A broker with TLS on TCP and WebSocket, whose certificate is issued by `authority`.
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
async fn a_client_trusts_only_known_authorities_and_the_right_host() {
    let (authority, other) = (Authority::new(), Authority::new());
    let broker = broker(&authority, "");
    for server in servers(&broker) {
        let error = is_let_in(&server, &other).await.unwrap_err();
        let Error::Unreachable { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains("certificate"), "{source}");
        // The operating system does not know the authority either.
        let error = Connection::open(&ClientConfig::new(server.parse::<Address>().unwrap())).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    // The certificate is for another host.
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
    let _ws_is_the_second = broker
        .wait_for_log("the certificate was read again, for connections from now on transport=ws certificate=cert.pem");
    for server in servers(&broker) {
        is_let_in(&server, &second).await.unwrap();
        is_let_in(&server, &first).await.unwrap_err();
    }
    assert_eq!(open.request_line("ping").await.unwrap(), "pong", "open connections continue");

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
    assert!(!broker.log().contains(&String::from_utf8(key).unwrap()[30..60]), "the key is not logged");
}

#[test]
fn an_unusable_certificate_is_an_error_at_the_start() {
    let broker = TestBroker::prepare("[transports.tcp]\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n");
    let output = broker.command().output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("transport tcp: TLS cannot be offered: cannot use cert.pem"), "{error}");
}

#[test]
fn an_unfinished_tls_handshake_times_out() {
    let authority = Authority::new();
    let broker = broker(&authority, "handshake_timeout_ms = 700\n");
    for addr in [broker.addr(), broker.addr_of("ws")] {
        let mut stream = socket(addr);
        let began = Instant::now();
        stream.write_all(b"\x16\x03\x01").unwrap();
        let mut answer = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut answer);
        assert!((Duration::from_millis(600)..PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
        // A client that speaks plain text.
        let mut stream = socket(addr);
        stream.write_all(b"ping\r\n").unwrap();
        let _reset_or_end = stream.read_to_end(&mut answer);
        assert_eq!(String::from_utf8_lossy(&answer), "error: this port speaks TLS\r\n");
        // A client that waits for a greeting.
        answer.clear();
        let _reset_or_end = socket(addr).read_to_end(&mut answer);
        assert_eq!(String::from_utf8_lossy(&answer), "error: this port speaks TLS\r\n");
    }
}

/// A mismatch of TLS and plain text must be recognizable at both ends.
#[tokio::test]
async fn tls_on_a_plain_port_and_plain_text_on_a_tls_port_are_told_apart() {
    let authority = Authority::new();
    let plain = TestBroker::start("[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n");
    let (tcp, ws) = (plain.addr().port(), plain.addr_of("ws").port());
    for server in [format!("tls://127.0.0.1:{tcp}"), format!("wss://127.0.0.1:{ws}")] {
        let error = Connection::open(&config(&server, &authority)).await.unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains("the port may speak plain text"), "{server}: {error}");
    }
    for transport in ["tcp", "ws"] {
        let line = plain.wait_for_log(&format!("TLS hello refused: this port speaks plain text transport={transport}"));
        assert!(line.contains("WARN"), "{line}");
    }
    let secure = broker(&authority, "handshake_timeout_ms = 700\n");
    let (tcp, ws) = (secure.addr().port(), secure.addr_of("ws").port());
    for server in [format!("tcp://127.0.0.1:{tcp}"), format!("ws://127.0.0.1:{ws}")] {
        let error = Connection::open(&config(&server, &authority)).await.unwrap_err();
        assert!(error.to_string().contains("the port may speak TLS"), "{server}: {error}");
    }
}

/// A feed over HTTPS that sends one event to its first reader, with the certificate and key in `dir`. Returns its port.
fn feed_over_https(dir: &std::path::Path) -> u16 {
    let chain = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    let settings = Arc::new(settings);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = rustls::ServerConnection::new(Arc::clone(&settings)).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, stream.unwrap());
            let mut request = Vec::new();
            let mut byte = [0];
            // A reader that does not trust the certificate ends the handshake.
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                request.extend(byte);
            }
            if !request.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"n\":1}\n\n";
            stream.write_all(text.as_bytes()).unwrap();
            // The stream stays open as long as the test runs.
            std::thread::park();
        }
    });
    port
}

/// Gives a broker a source that reads from `port`, and a durable subscription that was there before it.
fn run_with_source(broker: &mut TestBroker, port: u16, more: &str) {
    let source = format!(
        "[[sources]]\nkind = \"sse\"\nname = \"feed\"\nurl = \"https://localhost:{port}/\"\ntopic = \"t\"\n{more}"
    );
    broker.run();
    broker.telnet().asks("sub t mine", "successfully subscribed to topic t");
    assert!(broker.terminate().success());
    std::fs::write(broker.dir().join("herald.toml"), source).unwrap();
    broker.run();
}

#[test]
fn a_source_reads_a_feed_over_https_whose_authority_the_system_trusts() {
    let authority = Authority::new();
    let mut broker = TestBroker::prepare("");
    authority.issue(broker.dir());
    std::fs::write(broker.dir().join("ca.pem"), authority.pem()).unwrap();
    let port = feed_over_https(broker.dir());
    broker.env("SSL_CERT_FILE", broker.dir().join("ca.pem"));
    run_with_source(&mut broker, port, "");
    let mut client = broker.telnet();
    client.asks("sub t mine", "successfully subscribed to topic t");
    assert!(client.line().contains("\"n\":1"), "{}", broker.log());
}

#[test]
fn a_source_trusts_a_self_signed_certificate_only_if_exactly_that_one_is_presented() {
    for is_the_same in [true, false] {
        let mut broker = TestBroker::prepare("");
        let Some(pem) = self_signed(broker.dir(), &[]) else {
            eprintln!("openssl is missing");
            return;
        };
        let port = feed_over_https(broker.dir());
        let other = tempfile::tempdir().unwrap();
        let given = if is_the_same { pem } else { self_signed(other.path(), &[]).unwrap() };
        std::fs::write(broker.dir().join("ca.pem"), given).unwrap();
        run_with_source(&mut broker, port, "ca = \"ca.pem\"\n");
        if is_the_same {
            let mut client = broker.telnet();
            client.asks("sub t mine", "successfully subscribed to topic t");
            assert!(client.line().contains("\"n\":1"), "{}", broker.log());
        } else {
            let line = broker.wait_for_log("sse stream interrupted, reconnecting");
            assert!(line.contains("certificate"), "{line}");
        }
    }
}

#[test]
fn the_command_line_speaks_tls() {
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

/// Creates a self-signed certificate with openssl and `more` arguments; `None` if there is no openssl.
fn self_signed(dir: &std::path::Path, more: &[&str]) -> Option<Vec<u8>> {
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split(' '))
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .args(more)
        .current_dir(dir)
        .output();
    let made = made.ok()?;
    assert!(made.status.success(), "{made:?}");
    Some(std::fs::read(dir.join("cert.pem")).unwrap())
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_only_if_exactly_that_one_is_presented() {
    let tls = "[transports.tcp]\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n";
    let here = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    let elsewhere = ["-addext", "subjectAltName=DNS:elsewhere.example"];
    for (more, is_trusted) in [(&[][..], true), (&here, true), (&elsewhere, false)] {
        let mut broker = TestBroker::prepare(tls);
        let Some(pem) = self_signed(broker.dir(), more) else {
            eprintln!("openssl is missing");
            return;
        };
        broker.run();
        let server = format!("tls://localhost:{}", broker.addr().port());
        let trusting = |pem: Vec<u8>| ClientConfig::new(server.parse::<Address>().unwrap()).authorities(pem);
        let opened = Connection::open(&trusting(pem)).await;
        assert_eq!(opened.is_ok(), is_trusted, "{more:?}: {:?}", opened.err());
        // The same command creates a different certificate of the same name.
        let other = tempfile::tempdir().unwrap();
        let another = self_signed(other.path(), more).unwrap();
        assert!(Connection::open(&trusting(another)).await.is_err(), "{more:?}");
    }
}

#[test]
fn config_check_reports_an_unusable_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("herald.toml");
    std::fs::write(&file, "[transports.tcp]\ntls = { cert = \"/nowhere/cert.pem\", key = \"/nowhere/key.pem\" }\n")
        .unwrap();
    let output = Command::new(herald()).args(["config", "check", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("transports.tcp.tls: ") && said.contains("/nowhere/cert.pem"), "{said}");
}
