//! The data directory as its operator sees it.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::path::PathBuf;

use herald_tests::{Telnet, TestBroker, delivery, publish};

fn segments(broker: &TestBroker) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(broker.dir().join("data"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    files
}

fn filled(broker: &TestBroker, count: u32) {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"confirm\":true}").starts_with("hello"));
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    for n in 0..count {
        client.asks(&publish("t", &n.to_string(), 0), &format!("published t {n} synced"));
    }
}

/// Takes all waiting events and returns their ids.
fn taken(client: &mut Telnet) -> Vec<String> {
    assert!(client.ask("hello {\"prefetch\":1000}").starts_with("hello"));
    client.asks("sub t s", "successfully subscribed to topic t");
    client.send("ping");
    std::iter::from_fn(|| Some(client.line()).filter(|line| line != "pong"))
        .map(|line| herald_tests::id_of(&line))
        .collect()
}

#[test]
fn every_line_of_every_segment_is_a_json_object_that_ends_in_its_checksum() {
    let mut broker = TestBroker::start("");
    filled(&broker, 50);
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.expect(&delivery("t", "0", 0));
    client.send("ack t 0");
    client.expect_all(&["acknowledged from logs ev_id=0".into(), delivery("t", "1", 0)]);
    client.asks("nack t 1 100000", "requeued ev_id=1");
    assert!(broker.terminate().success());
    let mut lines = 0;
    for path in segments(&broker) {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(record.is_object());
            let (_, crc) = line.rsplit_once(",\"crc\":\"").unwrap();
            assert!(crc.len() == 10 && crc.ends_with("\"}"), "{line}");
            lines += 1;
        }
    }
    assert!(lines >= 54, "{lines} lines");
}

#[test]
fn a_second_broker_on_the_directory_is_refused_and_the_error_names_the_holder() {
    let broker = TestBroker::start("");
    let mut second = broker.command();
    let output = second.args(["--set", "transports.tcp.listen=127.0.0.1:0"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&broker.pid().to_string()) && error.contains("data"), "{error}");
    broker.telnet().asks("ping", "pong");
}

#[test]
fn a_torn_tail_is_cut_and_logged() {
    let mut broker = TestBroker::start("");
    filled(&broker, 10);
    broker.kill();
    let last = segments(&broker).pop().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    bytes.extend_from_slice(br#"{"batch":99,"left":0,"seq":11,"at":1,"event":{"topic":"t","prior"#);
    std::fs::write(&last, bytes).unwrap();
    broker.run();
    let line = broker.wait_for_log("torn");
    assert!(line.contains("64"), "the log states the length: {line}");
    let mut client = broker.telnet();
    assert_eq!(taken(&mut client).len(), 10);
    client.asks(&publish("t", "after", 9), &delivery("t", "after", 9));
}

#[test]
fn a_damaged_record_costs_only_itself_and_is_reported_with_file_and_offset() {
    let mut broker = TestBroker::start("");
    filled(&broker, 10);
    broker.kill();
    let first = segments(&broker).remove(0);
    let mut bytes = std::fs::read(&first).unwrap();
    let at = bytes.windows(8).position(|window| window == br#""id":"4""#).unwrap();
    bytes[at + 6] ^= 0x10;
    std::fs::write(&first, &bytes).unwrap();
    broker.run();
    let line = broker.wait_for_log("offset=");
    assert!(line.contains(first.file_name().unwrap().to_str().unwrap()), "{line}");
    let mut client = broker.telnet();
    assert_eq!(taken(&mut client), ["0", "1", "2", "3", "5", "6", "7", "8", "9"]);
    broker.kill();
    // With `on_damage = "stop"`, nothing is served until the operator has acted.
    let output = broker.command().args(["--set", "storage.on_damage=stop"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("offset"), "{error}");
    let now = std::fs::read(&first).unwrap();
    assert_eq!(now[..bytes.len()], bytes, "the record is left in its file");
}

#[test]
fn a_newer_format_and_a_foreign_directory_are_refused_unchanged() {
    for (name, text) in [
        (
            "0000000000000001.jsonl",
            "{\"herald\":\"json-log\",\"version\":2,\"segment\":1,\"left\":0,\"crc\":\"00000000\"}\n",
        ),
        ("0000000000000001.jsonl", "this is my diary\n"),
        ("data.db", "SQLite format 3\0 and more"),
    ] {
        let broker = TestBroker::prepare("");
        let dir = broker.dir().join("data");
        std::fs::create_dir(&dir).unwrap();
        let text = match text.split_once(",\"crc\"") {
            // A newer release seals its lines as this one does.
            Some((body, _)) => format!("{body},\"crc\":\"{:08x}\"}}\n", crc32(body.as_bytes())),
            None => text.to_owned(),
        };
        std::fs::write(dir.join(name), &text).unwrap();
        let output = broker.command().output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {error}");
        assert!(error.contains("data"), "the error names the directory: {error}");
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), text);
    }
}

/// The CRC-32 of gzip, computed bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn a_killed_broker_leaves_no_lock_and_a_stray_file_is_left_alone() {
    let mut broker = TestBroker::start("");
    filled(&broker, 3);
    broker.kill();
    let stray = broker.dir().join("data").join("notes.txt");
    std::fs::write(&stray, "mine").unwrap();
    broker.run();
    assert_eq!(taken(&mut broker.telnet()).len(), 3);
    assert!(broker.terminate().success());
    assert_eq!(std::fs::read_to_string(&stray).unwrap(), "mine");
}

#[test]
fn wherever_the_tail_is_torn_the_earlier_events_are_served() {
    let mut broker = TestBroker::start("");
    filled(&broker, 4);
    broker.kill();
    let [only] = segments(&broker).try_into().unwrap();
    let whole = std::fs::read(&only).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let ends: Vec<usize> = (0..4)
        .map(|n| {
            let at = text.find(&format!("\"id\":\"{n}\"")).unwrap();
            at + text[at..].find('\n').unwrap() + 1
        })
        .collect();
    for cut in (ends[1]..=whole.len()).step_by(7) {
        for later in segments(&broker) {
            std::fs::remove_file(later).unwrap();
        }
        std::fs::write(&only, &whole[..cut]).unwrap();
        broker.run();
        let expected: Vec<String> =
            (0..ends.iter().filter(|end| **end <= cut).count()).map(|n| n.to_string()).collect();
        assert_eq!(taken(&mut broker.telnet()), expected, "cut at {cut} of {}", whole.len());
        let torn = cut > 0 && whole[cut - 1] != b'\n';
        assert_eq!(broker.log().contains("torn"), torn, "cut at {cut}: {}", broker.log());
        broker.kill();
    }
}

#[test]
fn clean_on_start_removes_the_storage_and_nothing_else() {
    let mut broker = TestBroker::start("");
    filled(&broker, 3);
    broker.kill();
    std::fs::write(broker.dir().join("data").join("notes.txt"), "mine").unwrap();
    std::fs::write(broker.dir().join("herald.toml"), "[storage]\nclean_on_start = true\n").unwrap();
    broker.run();
    broker.telnet().asks("topics", "[]");
    assert_eq!(std::fs::read_to_string(broker.dir().join("data").join("notes.txt")).unwrap(), "mine");
}
