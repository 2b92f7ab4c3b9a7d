//! Events that wait for their delay: how they are counted, and that a search past many of them ends with the right answer.

use super::*;

/// More than one search sets aside.
const MANY: usize = 10_000;

fn delayed(id: &str, priority: i32) -> Op {
    let event = NewEvent { delay_ms: 3_600_000, ..event("t", id, priority) };
    Op::Publish { topic: topic("t"), event, confirm: true }
}

/// Publishes `MANY` urgent events that are not due for long, and waits until they are stored.
async fn publish_many(publisher: &mut Client) {
    for part in 0..MANY / 100 {
        publisher.send((0..100).map(|n| delayed(&format!("{part}-{n}"), 9)).collect()).await;
        for _ in 0..100 {
            assert!(matches!(publisher.next().await, Seen::Outcome(_, Outcome::Published { replaced: false })));
        }
    }
}

/// Waiting, delayed and in flight in the only subscription of the topic.
async fn figures(client: &mut Client) -> (u64, u64, u64) {
    client.send(vec![Op::Stats(Some(topic("t")))]).await;
    match client.next().await {
        Seen::Outcome(_, Outcome::Stats(stats)) => {
            let sub = &stats.topics[0].subscriptions[0];
            (sub.waiting, sub.delayed, sub.in_flight)
        }
        other => panic!("figures were due, not {other:?}"),
    }
}

#[tokio::test]
async fn what_stands_behind_many_that_are_not_due_is_delivered_and_an_acknowledgement_does_not_deny_it() {
    let engine = engine(&Arc::default(), settings()).await;
    let (mut client, mut other, mut publisher) = (Client::new(&engine), Client::new(&engine), Client::new(&engine));
    client.subscribe("t", Some("s"), 1).await;
    publisher.publish("t", "first", 0, false).await;
    assert_eq!(client.delivery().await.0, "first");
    publish_many(&mut publisher).await;
    publisher.publish("t", "behind", 0, true).await;
    while publisher.next().await != Seen::Outcome(publisher.slot, Outcome::Published { replaced: false }) {}
    // The first waits for the search, and what comes after it may be answered meanwhile.
    client.send(vec![ack("t", &["first"]), Op::AckAll { topic: topic("t") }]).await;
    let seen = [client.next().await, client.next().await, client.next().await];
    let all = Seen::Outcome(3, Outcome::AcknowledgedAll { count: 0, idle: false });
    let [first, delivery] = [Seen::Outcome(2, acknowledged(&[true], false)), Seen::Delivery("behind".into(), 0)];
    let place = |what: &Seen| seen.iter().position(|seen| seen == what).unwrap_or_else(|| panic!("{seen:?}"));
    assert!(place(&first) < place(&delivery) && place(&all) < 3, "{seen:?}");
    assert_eq!(figures(&mut other).await, (0, MANY as u64, 1));
    client.send(vec![ack("t", &["behind"])]).await;
    assert_eq!(client.next().await, Seen::Outcome(4, acknowledged(&[true], true)));
}

#[tokio::test]
async fn where_many_are_not_due_and_nothing_else_waits_the_answer_says_so() {
    let engine = engine(&Arc::default(), settings()).await;
    let (mut client, mut publisher) = (Client::new(&engine), Client::new(&engine));
    client.subscribe("t", Some("s"), 1).await;
    publisher.publish("t", "first", 0, false).await;
    assert_eq!(client.delivery().await.0, "first");
    publish_many(&mut publisher).await;
    client.send(vec![Op::AckAll { topic: topic("t") }]).await;
    assert_eq!(client.next().await, Seen::Outcome(2, Outcome::AcknowledgedAll { count: 1, idle: true }));
}

#[tokio::test]
async fn an_acknowledgement_is_answered_although_its_client_lets_go_while_the_search_goes_on() {
    let engine = engine(&Arc::default(), settings()).await;
    let (mut client, mut publisher) = (Client::new(&engine), Client::new(&engine));
    client.subscribe("t", Some("s"), 1).await;
    publisher.publish("t", "first", 0, false).await;
    assert_eq!(client.delivery().await.0, "first");
    publish_many(&mut publisher).await;
    client.send(vec![ack("t", &["first"]), Op::Detach { topic: topic("t") }]).await;
    let mut seen = vec![client.next().await, client.next().await];
    seen.sort_by_key(|seen| matches!(seen, Seen::Outcome(3, _)));
    assert_eq!(seen, [Seen::Outcome(2, acknowledged(&[true], false)), Seen::Outcome(3, Outcome::Detached)]);
}

#[tokio::test]
async fn what_waits_for_its_delay_counts_as_delayed_although_nobody_has_looked() {
    let engine = engine(&Arc::default(), settings()).await;
    let (mut client, mut publisher) = (Client::new(&engine), Client::new(&engine));
    client.subscribe("t", Some("s"), 1).await;
    client.send(vec![Op::Detach { topic: topic("t") }]).await;
    assert_eq!(client.next().await, Seen::Outcome(2, Outcome::Detached));
    publish_many(&mut publisher).await;
    publisher.publish("t", "now", 0, true).await;
    while publisher.next().await != Seen::Outcome(publisher.slot, Outcome::Published { replaced: false }) {}
    assert_eq!(figures(&mut client).await, (1, MANY as u64, 0));
    // Replaced, acknowledged while it waits, and purged.
    publisher.send(vec![delayed("0-0", 3), delayed("new", 3)]).await;
    let answers = [publisher.next().await, publisher.next().await];
    assert!(matches!(answers[0], Seen::Outcome(_, Outcome::Published { replaced: true })), "{answers:?}");
    assert_eq!(figures(&mut client).await, (1, MANY as u64 + 1, 0));
    client.subscribe("t", Some("s"), 1).await;
    assert_eq!(client.delivery().await.0, "now");
    client.send(vec![ack("t", &["new"])]).await;
    assert_eq!(client.next().await, Seen::Outcome(client.slot, acknowledged(&[true], false)));
    assert_eq!(figures(&mut client).await, (0, MANY as u64, 1));
    client.send(vec![Op::Purge { topic: topic("t"), subscription: None }]).await;
    assert_eq!(client.next().await, Seen::Outcome(client.slot, Outcome::Purged(MANY as u64)));
    assert_eq!(figures(&mut client).await, (0, 0, 1));
}
