//! The order of a connection's output, and of a subscription's deliveries.

use herald_tests::{TestBroker, delivery, id_of, publish};

#[test]
fn replies_come_in_the_order_of_the_commands_whatever_takes_longer() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    let mut input = String::new();
    let mut expected = Vec::new();
    for n in 0..500 {
        // A confirmation waits for the disk, and the topics are in different shards; the other answers are available at once.
        let topic = ["t", "u", "v", "w"][n % 4];
        input += &format!(
            "{}\nping\nnonsense\npub {topic} []\ndetach {topic}\nack {topic} a\n",
            publish(topic, &n.to_string(), 0)
        );
        expected.push(format!("published {topic} {n} synced"));
        expected.push("pong".into());
        expected.push("error: unknown command: \"nonsense\"; type help for the commands".into());
        expected.push("error: event is not of an accepted format: ".into());
        expected.push(format!("detached from topic {topic}"));
        expected.push(format!("error: not a topic {topic} subscriber"));
    }
    client.send_raw(input.as_bytes());
    for expected in expected {
        let line = client.line();
        assert!(line.starts_with(&expected), "{line} instead of {expected}");
    }
}

#[test]
fn commands_of_one_connection_take_effect_in_their_order() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    let mut input = String::new();
    for n in 0..200 {
        input += &format!("sub t\n{}\nack t {n}\nunsub t\n", publish("t", &n.to_string(), 0));
    }
    client.send_raw(input.as_bytes());
    for n in 0..200 {
        client.expect_all(&[
            "successfully subscribed to topic t".into(),
            delivery("t", &n.to_string(), 0),
            format!("acknowledged from logs ev_id={n}"),
            "no available message".into(),
            "successfully unsubscribe from topic t".into(),
        ]);
    }
}

#[test]
fn the_answer_to_a_subscription_comes_before_its_first_delivery() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    let mut publisher = broker.telnet();
    for n in 0..200 {
        publisher.send(&publish("t", &n.to_string(), 0));
        client.send("sub t s");
        client.expect("successfully subscribed to topic t");
        assert_eq!(id_of(&client.line()), n.to_string());
        client.send(&format!("ack t {n}"));
        client.expect_all(&[format!("acknowledged from logs ev_id={n}"), "no available message".into()]);
        client.asks("detach t", "detached from topic t");
    }
}

#[test]
fn a_backlog_comes_by_priority_and_then_by_publication_whatever_its_size_and_after_a_kill() {
    const COUNT: usize = 5000;
    let mut broker = TestBroker::start("[storage]\nmemory_budget_mb = 1\n");
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    assert!(client.ask(r#"hello {"confirm":true}"#).starts_with("hello"));
    let mut expected = Vec::new();
    let mut input = String::new();
    let text = "x".repeat(700);
    for n in 0..COUNT {
        // Priorities across the whole range of 32 bits, and some of them often.
        let priority = if n % 3 == 0 { (n % 7) as i32 } else { (n as u32).wrapping_mul(2_654_435_761).cast_signed() };
        let line = format!("{{\"topic\":\"t\",\"priority\":{priority},\"msg\":\"{text}\",\"id\":\"{n}\"}}");
        input += &format!("pub t {{\"id\":{n},\"priority\":{priority},\"msg\":\"{text}\"}}\n");
        expected.push((std::cmp::Reverse(priority), n, line));
    }
    expected.sort();
    // A thread writes, so that neither side waits for the other.
    let mut writer = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, input.as_bytes()).unwrap());
    for n in 0..COUNT {
        client.expect(&format!("published t {n} synced"));
    }
    writing.join().unwrap();
    broker.kill();
    broker.run();
    let mut client = broker.telnet();
    assert!(client.ask(r#"hello {"prefetch":100,"replies":"quiet"}"#).starts_with("hello"));
    client.asks("sub t s", "successfully subscribed to topic t");
    for (_, n, line) in expected {
        client.expect(&line);
        client.send(&format!("ack t {n}"));
    }
    client.nothing();
}
