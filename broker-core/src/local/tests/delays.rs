//! Events that are not yet due: how they are counted, and searches past many of them.

use super::*;

/// More events than one slice of a search sets aside.
const MANY: usize = 10_000;

fn delayed(id: &str, priority: i32) -> Op {
    let event = NewEvent { delay_ms: 3_600_000, ..event("t", id, priority) };
    Op::Publish { topic: topic("t"), event, confirm: true }
}

/// Publishes `MANY` urgent events that become due much later, and waits until they are durable.
async fn publish_many(publisher: &mut Client) {
    for part in 0..MANY / 100 {
        publisher.send((0..100).map(|n| delayed(&format!("{part}-{n}"), 9)).collect()).await;
        for _ in 0..100 {
            assert!(matches!(publisher.next().await, Seen::Outcome(_, Outcome::Published { replaced: false })));
        }
    }
}

/// The waiting, delayed and in-flight events of the topic's only subscription.
async fn figures(client: &mut Client) -> (u64, u64, u64) {
    client.send(vec![Op::Stats(Some(topic("t")))]).await;
    match client.next().await {
        Seen::Outcome(_, Outcome::Stats(stats)) => {
            let sub = &stats.topics[0].subscriptions[0];
            (sub.waiting, sub.delayed, sub.in_flight)
        }
        other => panic!("expected figures, got {other:?}"),
    }
}

#[tokio::test]
async fn an_event_behind_many_not_yet_due_is_delivered_and_no_answer_denies_it() {
    let engine = engine(&Arc::default(), settings()).await;
    let (mut client, mut other, mut publisher) = (Client::new(&engine), Client::new(&engine), Client::new(&engine));
    client.subscribe("t", Some("s"), 1).await;
    publisher.publish("t", "first", 0, false).await;
    assert_eq!(client.delivery().await.0, "first");
    publish_many(&mut publisher).await;
    publisher.publish("t", "behind", 0, true).await;
    while publisher.next().await != Seen::Outcome(publisher.slot, Outcome::Published { replaced: false }) {}
    // The first answer waits for the search. Later requests may be answered before it.
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
async fn the_answer_reports_idle_if_only_events_not_yet_due_wait() {
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
async fn an_acknowledgement_is_answered_although_its_client_detaches_during_the_search() {
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
async fn events_not_yet_due_count_as_delayed_before_any_search() {
    let engine = engine(&Arc::default(), settings()).await;
    let (mut client, mut publisher) = (Client::new(&engine), Client::new(&engine));
    client.subscribe("t", Some("s"), 1).await;
    client.send(vec![Op::Detach { topic: topic("t") }]).await;
    assert_eq!(client.next().await, Seen::Outcome(2, Outcome::Detached));
    publish_many(&mut publisher).await;
    publisher.publish("t", "now", 0, true).await;
    while publisher.next().await != Seen::Outcome(publisher.slot, Outcome::Published { replaced: false }) {}
    assert_eq!(figures(&mut client).await, (1, MANY as u64, 0));
    // Replaced, and purged.
    publisher.send(vec![delayed("0-0", 3), delayed("new", 3)]).await;
    let answers = [publisher.next().await, publisher.next().await];
    assert!(matches!(answers[0], Seen::Outcome(_, Outcome::Published { replaced: true })), "{answers:?}");
    assert_eq!(figures(&mut client).await, (1, MANY as u64 + 1, 0));
    client.subscribe("t", Some("s"), 1).await;
    assert_eq!(client.delivery().await.0, "now");
    client.send(vec![ack("t", &["new"])]).await;
    assert_eq!(
        client.next().await,
        Seen::Outcome(client.slot, acknowledged(&[false], false)),
        "it was never delivered"
    );
    assert_eq!(figures(&mut client).await, (0, MANY as u64 + 1, 1));
    client.send(vec![Op::Purge { topic: topic("t"), subscription: None }]).await;
    assert_eq!(client.next().await, Seen::Outcome(client.slot, Outcome::Purged(MANY as u64 + 1)));
    assert_eq!(figures(&mut client).await, (0, 0, 1));
}
