//! The limit on the length of a delivery: an accepted event can be delivered in every form it takes, on every storage and transport,
//! and any other event is refused when it is published.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use herald_tests::{Telnet, TestBroker, TestPublisher, WebSocketClient, herald};

const KINDS: [&str; 3] = ["json-log", "sled", "sqlite"];

const WEB_SOCKET: &str = "[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n";

/// The limit in the answer to `hello`.
fn longest(client: &mut Telnet) -> usize {
    let answer = client.ask("hello {\"confirm\":true}");
    let json: serde_json::Value = serde_json::from_str(answer.strip_prefix("hello ").unwrap()).unwrap();
    usize::try_from(json["max_output_line_bytes"].as_u64().unwrap()).unwrap()
}

/// Publishes events of growing length; returns the length of the longest accepted message.
fn publish_the_longest(client: &mut Telnet, topic: &str, limit: usize) -> usize {
    let publish = |client: &mut Telnet, id: &str, len: usize| {
        let answer = client.ask(&format!("pub {topic} {{\"id\":\"{id}\",\"msg\":\"{}\"}}", "x".repeat(len)));
        let refused = answer.starts_with(&format!("error: event is too long for topic {topic}: "));
        assert!(refused || answer.contains(&format!(" work {id} synced")), "{len}: {answer:.100}");
        assert!(!refused || answer.contains("max_output_line_bytes is "), "{answer:.300}");
        !refused
    };
    let (mut taken, mut refused) = (limit - (14 << 10) - 300, limit);
    assert!(publish(client, "probe", taken), "the broker adds at most 14 KiB");
    while taken + 1 < refused {
        let middle = usize::midpoint(taken, refused);
        if publish(client, "probe", middle) { taken = middle } else { refused = middle }
    }
    taken
}

#[test]
fn the_longest_event_fits_the_limit_in_every_form_on_every_storage_and_transport() {
    let long = "d".repeat(255);
    for kind in KINDS {
        let config = format!(
            "[storage]\nkind = \"{kind}\"\n[broker]\nmax_output_line_bytes = 65536\n{WEB_SOCKET}[topics.work]\ndead_letter = \"{long}\"\n"
        );
        let mut broker = TestBroker::start(&config);
        let mut client = broker.telnet();
        let limit = longest(&mut client);
        assert_eq!(limit, 65536);
        let subscription = "s".repeat(255);
        client.asks("sub work probes", "successfully subscribed to topic work");
        client.asks("detach work", "detached from topic work");
        let mut publisher = broker.telnet();
        assert_eq!(longest(&mut publisher), limit);
        let before = publish_the_longest(&mut publisher, "work", limit);
        publisher.asks(&format!("sub work {subscription}"), "successfully subscribed to topic work");
        let message = "x".repeat(before);
        let event = format!("{{\"topic\":\"work\",\"priority\":0,\"msg\":\"{message}\",\"id\":\"again\"}}");
        publisher.send(&format!("pub work {{\"id\":\"again\",\"msg\":\"{message}\"}}"));
        let lines = [publisher.line(), publisher.line()];
        assert!(lines.contains(&event), "{kind}: {:.100?}", lines);
        publisher.asks(&format!("term work again {}", "\u{1}".repeat(2000)), "terminated ev_id=again");
        drop((publisher, client));
        broker.kill();
        broker.run();
        assert_eq!(longest(&mut broker.telnet()), limit, "{kind}: as before the restart");
        let mut ws = WebSocketClient::connect(broker.addr_of("ws"));
        ws.asks(&format!("sub {long} dead"), &format!("successfully subscribed to topic {long}"));
        let first = ws.message().unwrap();
        ws.asks(&format!("nack {long} again 0"), "requeued ev_id=again");
        let letter = ws.message().unwrap();
        assert!(
            letter.contains("\"redelivered\":1") && letter.contains("\\u0001"),
            "{kind}: {:.300}",
            &letter[before..]
        );
        assert!(first.len() < letter.len() && letter.len() <= limit, "{kind}: {} of {limit}", letter.len());
        drop(ws);
        broker.wait_for_figures(&long, &[("in_flight", 0)]);
        let mut client = broker.telnet();
        client.asks("redrive work", "redriven 1");
        client.asks(&format!("sub work {subscription}"), "successfully subscribed to topic work");
        client.expect(&event);
    }
}

#[test]
fn an_event_at_the_maximum_of_the_limits_leaves_every_storage_in_service_and_reaches_heralds_own_clients() {
    const MOST: usize = 64 << 20;
    let message = "\\\"".repeat((MOST - (14 << 10)) / 2);
    for kind in KINDS {
        let limits = format!("max_line_bytes = {MOST}\nmax_output_line_bytes = {MOST}\n");
        let mut broker = TestBroker::start(&format!("[storage]\nkind = \"{kind}\"\n[broker]\n{limits}{WEB_SOCKET}"));
        broker.telnet().asks("sub t s", "successfully subscribed to topic t");
        let line = format!("{{\"id\":\"big\",\"msg\":\"{message}\"}}\n");
        let said = run(&["pub", "t", "-", "--server", &broker.addr().to_string()], &line);
        assert!(said.starts_with("published t big synced\n"), "{kind}: {said:.200}");
        let said = run(&["pub", "t", "-", "--server", &broker.addr().to_string()], "{\"id\":\"small\"}\n");
        assert!(said.starts_with("published t small synced\n"), "{kind}: {said:.200}");
        broker.kill();
        broker.run();
        let expected = format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":\"{message}\",\"id\":\"big\"}}");
        let addresses = [format!("ws://{}/ws", broker.addr_of("ws")), broker.addr().to_string()];
        // The behaviour of clients does not depend on the storage.
        for address in addresses.into_iter().skip(usize::from(kind == "sled")).take(1 + usize::from(kind == "json-log"))
        {
            let args = ["sub", "t", "--name", "s", "--count", "1", "--no-ack", "--server", &address];
            let said = run(&args, "").replace(",\"redelivered\":1}", "}");
            assert!(said.trim_end() == expected, "{kind}, {address}: {:.100} … {} bytes", said, said.len());
            broker.wait_for_figures("t", &[("in_flight", 0)]);
        }
        assert!(broker.terminate().success());
    }
}

/// Runs the binary and returns its standard output.
fn run(args: &[&str], input: &str) -> String {
    let mut command = Command::new(herald());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
        command.env_remove(name);
    }
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        let _it_may_not_read = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    if said.is_empty() { errors } else { said }
}

/// A feed of one event that is too long and one that fits.
fn feed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let again = request.filter(|line| line.to_ascii_lowercase().starts_with("last-event-id: 2")).count() > 0;
            let mut answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_owned();
            if !again {
                answer.push_str(&format!("id: 1\ndata: {}\n\nid: 2\ndata: short\n\n", "x".repeat(60_000)));
            }
            let _the_client_has_gone = stream.write_all(answer.as_bytes());
            open.push(stream);
        }
    });
    format!("[[sources]]\nkind = \"sse\"\nname = \"feed\"\nurl = \"http://{addr}/\"\ntopic = \"t\"\n")
}

const PASSED_OVER: &str = "the broker refused an event, which is passed over";

#[test]
fn a_sources_event_that_is_too_long_is_skipped_with_a_warning_on_every_storage() {
    for kind in KINDS {
        let config = format!("[storage]\nkind = \"{kind}\"\n[broker]\nmax_output_line_bytes = 65536\n");
        let mut broker = TestBroker::start(&config);
        broker.telnet().asks("sub t s", "successfully subscribed to topic t");
        assert!(broker.terminate().success());
        std::fs::write(broker.dir().join("herald.toml"), format!("{config}{}", feed())).unwrap();
        broker.run();
        let warning = broker.wait_for_log(PASSED_OVER);
        assert!(warning.contains("event is too long for topic t"), "{kind}: {warning}");
        let mut client = broker.telnet();
        client.asks("sub t s", "successfully subscribed to topic t");
        assert!(client.line().contains("\"msg\":\"short\""), "{kind}");
        assert_eq!(broker.log().matches(PASSED_OVER).count(), 1, "{kind}");
    }
}

#[test]
fn an_event_that_is_too_long_for_a_remote_broker_is_skipped_with_a_warning() {
    let broker = TestBroker::start("[broker]\nmax_output_line_bytes = 65536\n");
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    let publisher = TestPublisher::start(&format!("[publish]\nto = \"tcp://{}\"\n{}", broker.addr(), feed()));
    assert!(client.line().contains("\"msg\":\"short\""));
    let warning = publisher.wait_for_log(PASSED_OVER);
    assert!(warning.contains("event is too long for topic t"), "{warning}");
}

#[test]
fn events_published_before_the_limit_was_lowered_are_delivered_and_hello_reports_their_length() {
    for kind in KINDS {
        let storage = format!("[storage]\nkind = \"{kind}\"\n");
        let mut broker = TestBroker::start(&storage);
        let mut client = broker.telnet();
        client.asks("sub t s", "successfully subscribed to topic t");
        let event = format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":\"{}\",\"id\":\"a\"}}", "x".repeat(100_000));
        client.send(&format!("pub t {{\"id\":\"a\",\"msg\":\"{}\"}}", "x".repeat(100_000)));
        client.expect(&event);
        broker.kill();
        std::fs::write(broker.dir().join("herald.toml"), format!("{storage}[broker]\nmax_output_line_bytes = 65536\n"))
            .unwrap();
        broker.run();
        let mut client = broker.telnet();
        let limit = longest(&mut client);
        assert!((event.len()..event.len() + (15 << 10)).contains(&limit), "{kind}: {limit}");
        client.asks("sub t s", "successfully subscribed to topic t");
        client.expect(&event);
        let answer = client.ask(&format!("pub t {{\"msg\":\"{}\"}}", "y".repeat(60_000)));
        assert!(answer.starts_with("error: event is too long for topic t: "), "{kind}: {answer:.100}");
    }
}

#[test]
fn contradictory_limits_are_reported() {
    let keys = "[broker]\nmax_line_bytes = 4194304\nmax_output_line_bytes = 65536\n";
    let broker = TestBroker::start(keys);
    let expected =
        "broker.max_line_bytes = 4194304 lets clients send events that broker.max_output_line_bytes = 65536 refuses";
    assert!(broker.wait_for_log("two limits do not fit together").contains(expected));
    let path = broker.dir().join("herald.toml");
    let said = run(&["config", "check", "--config", path.to_str().unwrap()], "");
    assert!(said.contains(expected), "{said}");
}
