//! Several connections on one subscription: which one gets an event, and which may settle it.

use std::collections::{HashMap, HashSet};

use herald_tests::{Telnet, TestBroker, delivery, id_of, publish, redelivery};

const SUBSCRIBED: &str = "successfully subscribed to topic t";

fn confirmed(broker: &TestBroker) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    client
}

#[test]
fn a_successor_of_an_event_in_flight_is_not_delivered() {
    let broker = TestBroker::start("");
    let (mut holder, mut other) = (broker.telnet(), broker.telnet());
    let mut publisher = confirmed(&broker);
    holder.asks("sub t s", SUBSCRIBED);
    publisher.asks(&publish("t", "x", 0), "published t x synced");
    holder.expect(&delivery("t", "x", 0));
    other.asks("sub t s", SUBSCRIBED);
    publisher.asks(&publish("t", "x", 9), "published t x synced");
    publisher.asks(&publish("t", "x", 8), "replaced t x synced");
    // A less urgent event is delivered, but not the one that waits for the older version.
    publisher.asks(&publish("t", "y", 0), "published t y synced");
    other.expect(&delivery("t", "y", 0));
    other.send("ack t y");
    other.expect_all(&["acknowledged from logs ev_id=y", "no available message"]);
    other.nothing();
    holder.send("quit");
    other.expect(&delivery("t", "x", 8));
}

#[test]
fn a_connection_is_not_affected_by_anothers_events_in_flight() {
    let broker = TestBroker::start("");
    let (mut one, mut two) = (broker.telnet(), broker.telnet());
    let mut publisher = confirmed(&broker);
    one.asks("sub t s", SUBSCRIBED);
    publisher.asks(&publish("t", "a", 0), "published t a synced");
    one.expect(&delivery("t", "a", 0));
    two.asks("sub t s", SUBSCRIBED);
    for command in ["ack t a", "nack t a", "nack t a 5", "touch t a"] {
        two.asks(command, "no_event_error: a");
    }
    two.asks("ack t *", "acknowledged 0 events");
    one.nothing();
    one.asks("touch t a", "touched ev_id=a");
    // Events in flight elsewhere do not count as available.
    publisher.asks(&publish("t", "b", 0), "published t b synced");
    two.expect(&delivery("t", "b", 0));
    two.send("ack t b");
    two.expect_all(&["acknowledged from logs ev_id=b", "no available message"]);
    one.asks("nack t a", "requeued ev_id=a");
    // One of the two connections gets it.
    broker.wait_for_figures("t", &[("in_flight", 1), ("waiting", 0), ("redelivered", 1)]);
    one.send("ping");
    let line = one.line();
    if line == redelivery("t", "a", 0, 1) {
        one.expect("pong");
        two.nothing();
    } else {
        assert_eq!(line, "pong");
        two.expect(&redelivery("t", "a", 0, 1));
    }
}

#[test]
fn every_connection_with_room_is_served_and_each_event_goes_to_one() {
    const COUNT: usize = 3000;
    let broker = TestBroker::start("");
    let mut publisher = confirmed(&broker);
    let addr = broker.addr();
    let consumers: Vec<_> = [1, 1, 10, 100]
        .map(|prefetch| {
            let mut client = Telnet::connect(addr);
            assert!(client.ask(&format!("hello {{\"prefetch\":{prefetch}}}")).starts_with("hello"));
            client.asks("sub t s", SUBSCRIBED);
            std::thread::spawn(move || {
                let (mut seen, mut in_flight) = (Vec::new(), HashSet::new());
                loop {
                    let line = client.line();
                    if let Some(id) = line.strip_prefix("acknowledged from logs ev_id=") {
                        assert!(in_flight.remove(id), "{id} was not delivered here");
                    } else if line.starts_with('{') {
                        let id = id_of(&line);
                        if id == "end" {
                            // This event stays in flight here, so that every connection gets one.
                            return seen;
                        }
                        // The broker answers in the order of the acknowledgements, so exactly the unanswered events are in flight.
                        in_flight.insert(id.clone());
                        assert!(in_flight.len() <= prefetch, "{} in flight of {prefetch}", in_flight.len());
                        client.send(&format!("ack t {id}"));
                        seen.push(id);
                    } else {
                        assert_eq!(line, "no available message");
                    }
                }
            })
        })
        .into_iter()
        .collect();
    for n in 0..COUNT {
        publisher.send(&publish("t", &n.to_string(), 0));
    }
    for n in 0..COUNT {
        publisher.expect(&format!("published t {n} synced"));
    }
    broker.wait_for_figures("t", &[("acknowledged", COUNT as u64), ("in_flight", 0)]);
    // Every connection leaves after one more event; those with a larger prefetch may get more.
    let mut times: HashMap<String, u32> = HashMap::new();
    publisher.asks(r#"pub t {"id":"end"}"#, "published t end synced");
    for consumer in consumers {
        for id in consumer.join().unwrap() {
            *times.entry(id).or_default() += 1;
        }
    }
    assert_eq!(times.len(), COUNT);
    assert!(times.values().all(|times| *times == 1));
}
