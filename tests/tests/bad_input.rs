//! Bad input that must not affect other clients: endless lines, many silent connections, consumers that never read.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, Telnet, TestBroker, id_of, publish, resident_kb};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Checks that a client is served while others misbehave: it publishes to itself and receives its answers.
fn is_served(client: &mut Telnet, number: u32) {
    client.send(&publish("well", &number.to_string(), 0));
    assert_eq!(id_of(&client.line()), number.to_string());
    client.asks(&format!("ack well {number}"), &format!("acknowledged from logs ev_id={number}"));
    client.expect("no available message");
}

fn well_behaved(broker: &TestBroker) -> Telnet {
    let mut client = broker.telnet();
    client.asks("sub well", "successfully subscribed to topic well");
    client
}

#[test]
fn an_endless_line_costs_no_memory_and_affects_no_other_client() {
    let broker = TestBroker::start("");
    let mut other = well_behaved(&broker);
    let mut client = broker.telnet();
    let before = resident_kb(broker.pid());
    let chunk = vec![b'x'; 1 << 20];
    for n in 0..256 {
        client.send_raw(&chunk);
        if n % 32 == 0 {
            is_served(&mut other, n);
        }
    }
    client.send_raw(b"\r\nping\r\n");
    client.expect_all(&["error: line exceeds 1048576 bytes", "pong"]);
    let after = resident_kb(broker.pid());
    assert!(after < before + 16 * 1024, "{before} KiB before, {after} KiB after 256 MiB");
}

#[test]
fn binary_input_is_answered_line_by_line_and_the_connection_stays_usable() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    // Every byte value except the line feed, in an order that is neither text nor telnet.
    let garbage: Vec<u8> = (0..200_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .filter(|byte| *byte != b'\n' && *byte != 0xff)
        .collect();
    for line in garbage.chunks(997) {
        client.send_raw(line);
        client.send_raw(b"\n");
    }
    for _ in garbage.chunks(997) {
        assert_eq!(client.line(), "error: line is not valid UTF-8");
    }
    client.asks("ping", "pong");
    // A telnet subnegotiation that does not end is ignored, and the bytes after it are a line that is too long.
    let before = resident_kb(broker.pid());
    client.send_raw(b"\xff\xfa");
    for _ in 0..64 {
        client.send_raw(&[b'y'; 1 << 20]);
    }
    client.send_raw(b"\nping\n");
    client.expect_all(&["error: line exceeds 1048576 bytes", "pong"]);
    assert!(resident_kb(broker.pid()) < before + 16 * 1024);
}

#[test]
fn ten_thousand_silent_connections_cost_little_memory() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let broker = TestBroker::start("[transports.tcp]\nmax_connections = 20000\n");
    let mut other = well_behaved(&broker);
    is_served(&mut other, 0);
    let before = resident_kb(broker.pid());
    let most = limit.maximum.map_or(10_000, |most| most.saturating_sub(200).min(10_000));
    assert!(most >= 1000, "the machine allows too few open files for this test");
    let silent: Vec<TcpStream> = (0..most).map(|_| TcpStream::connect(broker.addr()).unwrap()).collect();
    is_served(&mut other, 1);
    let began = Instant::now();
    // The broker counts a connection once it has accepted it.
    loop {
        let stats: serde_json::Value = serde_json::from_str(&other.ask("stats well")).unwrap();
        if stats["connections"].as_u64() == Some(most + 1) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{stats}");
    }
    let each = (resident_kb(broker.pid()) - before) as f64 / most as f64;
    assert!(each < 16.0, "{each} KiB for each silent connection");
    // With half a line each, the broker keeps only the bytes sent.
    for mut stream in &silent {
        stream.write_all(&[b'x'; 500]).unwrap();
    }
    is_served(&mut other, 2);
    let each = (resident_kb(broker.pid()) - before) as f64 / most as f64;
    assert!(each < 16.0, "{each} KiB for each connection with half a line");
}

#[test]
fn a_consumer_that_never_reads_costs_bounded_memory_and_its_events_come_back() {
    let broker = TestBroker::start("[transports.tcp]\nwrite_timeout_ms = 1500\n");
    let mut other = well_behaved(&broker);
    let mut deaf: Vec<Telnet> = (0..20)
        .map(|_| {
            let mut client = broker.telnet();
            assert!(client.ask("hello {\"prefetch\":65535}").starts_with("hello {"));
            client.asks("sub t s", "successfully subscribed to topic t");
            client
        })
        .collect();
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello {"));
    let before = resident_kb(broker.pid());
    let text = "x".repeat(10_000);
    for n in 0..10_000 {
        publisher.send(&format!("pub t {{\"id\":\"{n}\",\"msg\":\"{text}\"}}"));
        if n % 1000 == 0 {
            is_served(&mut other, n);
        }
    }
    for n in 0..10_000 {
        publisher.expect(&format!("published t {n} synced"));
    }
    let growth = resident_kb(broker.pid()).saturating_sub(before);
    // 100 MB wait, within the budget of 256 MB. The output of 20 clients comes on top.
    assert!(growth < 300 * 1024, "{growth} KiB for consumers that do not read");
    // The consumers are disconnected, and a client that reads gets everything.
    let mut reader = broker.telnet();
    assert!(reader.ask("hello {\"prefetch\":100,\"replies\":\"quiet\"}").starts_with("hello {"));
    reader.asks("sub t s", "successfully subscribed to topic t");
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 10_000 {
        let id = id_of(&reader.line());
        reader.send(&format!("ack t {id}"));
        assert!(seen.insert(id.clone()), "{id} came twice");
    }
    let _deaf_until_now = deaf.pop();
}

#[test]
fn a_publisher_that_never_reads_its_confirmations_blocks_no_other_client() {
    let broker = TestBroker::start("[transports.tcp]\nwrite_timeout_ms = 1000\n");
    let mut other = well_behaved(&broker);
    let stream = TcpStream::connect(broker.addr()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut out = &stream;
    let before = resident_kb(broker.pid());
    out.write_all(b"hello {\"confirm\":true}\n").unwrap();
    let lines =
        (publish("t", "some-id-that-is-long-enough-to-fill-buffers-with-its-confirmations", 0) + "\n").repeat(1000);
    let began = Instant::now();
    let mut number = 0;
    // Until the broker stops reading and then closes the connection.
    while out.write_all(lines.as_bytes()).is_ok() && began.elapsed() < PATIENCE {
        number += 1;
    }
    is_served(&mut other, number);
    assert!(resident_kb(broker.pid()) < before + 64 * 1024);
}

/// Topics with long names, each with a durable subscription.
fn with_topics(broker: &TestBroker, count: u32) {
    let mut client = broker.telnet();
    let mut input = String::new();
    for n in 0..count {
        input += &format!("sub a-topic-with-a-name-that-is-long-{n} s\ndetach a-topic-with-a-name-that-is-long-{n}\n");
    }
    let mut writer = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(input.as_bytes()).unwrap());
    for _ in 0..2 * count {
        let line = client.line();
        assert!(!line.starts_with("error"), "{line}");
    }
    writing.join().unwrap();
}

#[test]
fn unread_long_answers_to_short_commands_cost_bounded_memory_and_affect_no_other_client() {
    let broker = TestBroker::start("[transports.tcp]\nwrite_timeout_ms = 1000\n");
    with_topics(&broker, 5000);
    let mut other = well_behaved(&broker);
    let many_ids = format!("sub t\nack t {}\n", "a ".repeat(500_000));
    for (number, flood) in
        ["topics\n".repeat(1000), "stats\n".repeat(1000), "help\n".repeat(1000), "\u{1}\n".repeat(1000), many_ids]
            .iter()
            .enumerate()
    {
        let number = u32::try_from(number).unwrap();
        let before = resident_kb(broker.pid());
        let stream = TcpStream::connect(broker.addr()).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let began = Instant::now();
        let (mut most, mut round) = (0, 0);
        // The broker stops reading after a while, and then closes the connection.
        loop {
            match (&stream).write(flood.as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                _ => {}
            }
            most = most.max(resident_kb(broker.pid()));
            is_served(&mut other, number * 1_000_000 + round);
            round += 1;
            assert!(began.elapsed() < PATIENCE, "{:.10}: not disconnected", flood);
        }
        let growth = most.saturating_sub(before);
        assert!(growth < 96 * 1024, "{:.10}: {growth} KiB", flood);
    }
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let broker = TestBroker::start("");
    let mut other = well_behaved(&broker);
    let come_and_go = |count: u32| {
        for n in 0..count {
            let mut client = broker.telnet();
            client.send(&format!(
                "hello {{\"prefetch\":100}}\nsub t\nsub u{}\nsub v s\n{}",
                n % 100,
                publish("t", "a", 0)
            ));
            // Some quit, some disconnect in the middle of a line, some with unread input.
            match n % 3 {
                0 => {
                    client.send("quit");
                    assert!(client.rest().iter().any(|line| line == "bye"));
                }
                1 => client.send_raw(b"pub t {\"id\":\"half"),
                _ => {}
            }
        }
        let mut client = broker.telnet();
        let began = Instant::now();
        loop {
            let stats: serde_json::Value = serde_json::from_str(&client.ask("stats")).unwrap();
            let nameless = stats["topics"].as_array().unwrap().iter().flat_map(|topic| {
                topic["subscriptions"].as_array().unwrap().iter().filter(|subscription| subscription["name"].is_null())
            });
            // One subscription belongs to the well-behaved client.
            if stats["connections"] == 2 && nameless.count() == 1 {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{stats}");
        }
    };
    come_and_go(500);
    let before = resident_kb(broker.pid());
    come_and_go(3000);
    is_served(&mut other, 1);
    let after = resident_kb(broker.pid());
    assert!(after < before + 8 * 1024, "{before} KiB after 500 connections, {after} KiB after 3,500");
}
