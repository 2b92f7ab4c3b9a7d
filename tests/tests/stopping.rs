//! Stopping a broker: in time, and without losing confirmed events, however many signals it gets.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::collections::HashSet;
use std::io::Write as _;
use std::time::Duration;

use herald_tests::{Telnet, TestBroker, id_of, publish, redelivery};
use rustix::process::Signal;

/// A client with 1,000 long events in flight that it never reads, so that an orderly stop has to wait for it.
fn deaf(broker: &TestBroker) -> Telnet {
    let mut deaf = broker.telnet();
    assert!(deaf.ask("hello {\"prefetch\":65535}").starts_with("hello"));
    deaf.asks("sub long s", "successfully subscribed to topic long");
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello"));
    let text = "x".repeat(50_000);
    for n in 0..1000 {
        publisher
            .asks(&format!("pub long {{\"id\":\"{n}\",\"msg\":\"{text}\"}}"), &format!("published long {n} synced"));
    }
    deaf
}

/// Publishes until the broker stops reading, and calls `during` after `first` confirmations. Returns the ids of all confirmed events
/// from then on.
fn publish_while(broker: &TestBroker, first: usize, during: impl FnOnce()) -> Vec<String> {
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello"));
    let mut writer = publisher.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for n in 0.. {
            if writeln!(writer, "{}", publish("t", &n.to_string(), 0)).is_err() {
                return;
            }
        }
    });
    let confirmed = |line: &str| line.strip_prefix("published t ")?.strip_suffix(" synced").map(str::to_owned);
    let mut ids: Vec<String> = (0..first).map(|_| confirmed(&publisher.line()).unwrap()).collect();
    during();
    // The connection may end in the middle of a line, which is not a confirmation.
    let mut rest = Vec::new();
    let _it_may_be_reset = std::io::Read::read_to_end(&mut publisher.stream(), &mut rest);
    let rest = String::from_utf8(rest).unwrap();
    ids.extend(rest.split_inclusive("\r\n").filter_map(|line| confirmed(line.strip_suffix("\r\n")?)));
    writing.join().unwrap();
    ids
}

/// Everything waiting in `t`.
fn everything(broker: &TestBroker) -> HashSet<String> {
    let mut client = broker.telnet();
    let stats: serde_json::Value = serde_json::from_str(&client.ask("stats t")).unwrap();
    let waiting = stats["topics"][0]["subscriptions"][0]["waiting"].as_u64().unwrap();
    assert!(client.ask("hello {\"prefetch\":1000,\"replies\":\"quiet\"}").starts_with("hello"));
    client.asks("sub t s", "successfully subscribed to topic t");
    let take = |_| {
        let id = id_of(&client.line());
        client.send(&format!("ack t {id}"));
        id
    };
    (0..waiting).map(take).collect()
}

#[test]
fn a_second_signal_ends_the_broker_at_once_and_loses_nothing_confirmed() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut broker = TestBroker::start("[broker]\nshutdown_timeout_ms = 600000\n");
        broker.telnet().asks("sub t s", "successfully subscribed to topic t");
        let _deaf = deaf(&broker);
        let confirmed = publish_while(&broker, 2000, || {
            broker.signal(signal);
            let _the_first_is_heard = broker.wait_for_log("a second signal ends it at once");
            // A SIGINT within 100 ms counts as a repeat of the first.
            std::thread::sleep(Duration::from_millis(150));
            broker.signal(signal);
        });
        assert_eq!(broker.wait().code(), Some(status), "{}", broker.log());
        assert!(broker.log().contains("ended at once"), "{}", broker.log());
        broker.run();
        let there = everything(&broker);
        let lost: Vec<_> = confirmed.iter().filter(|id| !there.contains(*id)).collect();
        assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), confirmed.len());
        broker.wait_for_figures("long", &[("waiting", 1000), ("in_flight", 0)]);
    }
}

/// Ctrl-C reaches every process of a group, and a shell or supervisor among them may forward it.
#[test]
fn a_second_interrupt_right_after_the_first_is_ignored() {
    let mut broker = TestBroker::start("[broker]\nshutdown_timeout_ms = 1500\n");
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    let _deaf = deaf(&broker);
    broker.signal(Signal::INT);
    let _the_first_is_heard = broker.wait_for_log("a second signal ends it at once");
    broker.signal(Signal::INT);
    assert!(broker.wait().success(), "{}", broker.log());
    assert!(!broker.log().contains("ended at once"), "{}", broker.log());
}

#[test]
fn prefetched_events_are_given_back_before_the_broker_ends() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = TestBroker::start("");
        let mut client = broker.telnet();
        assert!(client.ask("hello {\"prefetch\":5}").starts_with("hello"));
        client.asks("sub t s", "successfully subscribed to topic t");
        let lines: String = (0..9).map(|n| publish("t", &n.to_string(), 0) + "\n").collect();
        client.send_raw(lines.as_bytes());
        for n in 0..5 {
            assert_eq!(id_of(&client.line()), n.to_string());
        }
        broker.signal(signal);
        assert!(broker.wait().success(), "{}", broker.log());
        assert_eq!(client.try_line(), None);
        broker.run();
        broker.wait_for_figures("t", &[("waiting", 9), ("in_flight", 0)]);
        let mut client = broker.telnet();
        client.asks("sub t s", "successfully subscribed to topic t");
        // The orderly stop stored the delivery.
        client.expect(&redelivery("t", "0", 0, 1));
    }
}
