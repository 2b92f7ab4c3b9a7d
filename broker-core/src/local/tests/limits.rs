//! Limits: output that a client does not read, memory, topics and subscriptions.

use super::*;

#[tokio::test]
async fn a_client_that_does_not_read_is_sent_no_more_than_its_gauge_allows() {
    let engine = engine(&Arc::default(), settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), u16::MAX).await;
    let mut publisher = Client::new(&engine);
    let big = "x".repeat(10_000);
    for n in 0..100 {
        let id = n.to_string();
        let payload = Payload::encode("t", Priority(0), &format!("\"{big}\""), &id);
        let event = NewEvent { id: IdKey::of(&id), priority: Priority(0), ttl_ms: 0, delay_ms: 0, payload };
        publisher.send(vec![Op::Publish { topic: topic("t"), event, confirm: true }]).await;
        publisher.next().await;
    }
    let mut got = 0;
    let mut cost = 0;
    while let Ok(events) = client.link.events.try_recv() {
        for event in events {
            if let LinkEvent::Deliveries(deliveries) = event {
                got += deliveries.len();
                cost += deliveries.iter().map(crate::engine::Delivery::cost).sum::<usize>();
            }
        }
    }
    assert_eq!(got, crate::engine::OUTPUT_LIMIT.div_ceil(cost / got), "the last one may exceed the limit");
    assert!(client.link.gauge.written(cost), "the engine waits");
    client.send(vec![Op::Resume]).await;
    assert_eq!(client.delivery().await.0, got.to_string());
}

#[tokio::test]
async fn a_client_of_many_topics_is_served_in_rotation_when_it_has_room_again() {
    const EACH: usize = 60;
    let engine = engine(&Arc::default(), EngineSettings { shards: 1, ..settings() }).await;
    let (mut client, mut publisher) = (Client::new(&engine), Client::new(&engine));
    let topics: Vec<String> = (0..5).map(|n| format!("t{n}")).collect();
    for name in &topics {
        client.subscribe(name, Some("s"), u16::MAX).await;
    }
    let big = format!("\"{}\"", "x".repeat(20_000));
    for name in &topics {
        for n in 0..EACH {
            let id = format!("{name}-{n}");
            let payload = Payload::encode(name, Priority(0), &big, &id);
            let event = NewEvent { id: IdKey::of(&id), priority: Priority(0), ttl_ms: 0, delay_ms: 0, payload };
            publisher.send(vec![Op::Publish { topic: topic(name), event, confirm: true }]).await;
            publisher.next().await;
        }
    }
    let mut got = [0; 5];
    while got.iter().sum::<usize>() < topics.len() * EACH {
        let events = tokio::time::timeout(Duration::from_secs(60), client.link.events.recv()).await;
        let mut cost = 0;
        for event in events.expect("more comes within 60 s").expect("the engine is there") {
            let LinkEvent::Deliveries(deliveries) = event else { continue };
            for delivery in deliveries {
                cost += delivery.cost();
                let at = topics.iter().position(|name| delivery.payload.id().starts_with(name.as_str()));
                got[at.expect("one of the topics")] += 1;
            }
        }
        let complete = got.contains(&EACH);
        assert!(!complete || got.iter().all(|count| *count > 0), "no topic waits until another is done: {got:?}");
        if client.link.gauge.written(cost) {
            client.send(vec![Op::Resume]).await;
        }
    }
    assert_eq!(got, [EACH; 5]);
}

#[tokio::test]
async fn payloads_beyond_the_budget_are_read_back_in_order() {
    let storage = Arc::new(MemoryStorage::default());
    let tiny = EngineSettings { memory_budget_bytes: 600_000, shards: 1, ..EngineSettings::default() };
    let engine = engine(&storage, tiny).await;
    let mut client = Client::new(&engine);
    client
        .send(vec![Op::Subscribe { topic: topic("t"), name: sub("s"), prefetch: 1 }, Op::Detach { topic: topic("t") }])
        .await;
    client.next().await;
    client.next().await;
    let mut publisher = Client::new(&engine);
    for n in 0..3000 {
        publisher.publish("t", &format!("{n}"), n % 3, true).await;
    }
    for _ in 0..3000 {
        publisher.next().await;
    }
    client.subscribe("t", Some("s"), 100).await;
    let mut expected: Vec<i32> = (0..3000).collect();
    expected.sort_by_key(|n| (-(n % 3), *n));
    for n in expected {
        assert_eq!(client.delivery().await, (n.to_string(), 0));
        client.send(vec![ack("t", &[&n.to_string()])]).await;
        assert!(matches!(client.next_outcome().await, Outcome::Acknowledged { .. }));
    }
    assert!((4..=40).contains(&storage.reads()), "{} reads", storage.reads());
}

#[tokio::test]
async fn idle_topics_of_any_shard_make_room_for_new_ones() {
    let settings = EngineSettings { max_topics: 4, max_subscriptions: 2, ..settings() };
    let engine = engine(&Arc::default(), settings).await;
    let mut client = Client::new(&engine);
    client.subscribe("kept", Some("s"), 1).await;
    for n in 0..100 {
        client.publish(&format!("t{n}"), "a", 0, true).await;
        // Whichever shard has the topics of which nothing is left.
        let outcome = client.next_outcome().await;
        assert!(matches!(outcome, Outcome::Published { .. }), "{n}: {outcome:?}");
    }
    client.subscribe("kept2", None, 1).await;
    client.send(vec![Op::Subscribe { topic: topic("kept"), name: sub("other"), prefetch: 1 }]).await;
    let refused = client.next_outcome().await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
}

#[tokio::test]
async fn what_memory_has_forgotten_the_storage_is_told_to_forget_and_a_restart_has_room() {
    const MOST: usize = 3;
    let storage = Arc::new(MemoryStorage::default());
    let few = || EngineSettings { max_topics: MOST, ..settings() };
    let first = engine(&storage, few()).await;
    let mut client = Client::new(&first);
    for n in 0..4 * MOST {
        // Each topic is used once and left; the next ones need its place.
        let name = format!("reply-{n}");
        let began = std::time::Instant::now();
        loop {
            client.send(vec![Op::Subscribe { topic: topic(&name), name: sub("s"), prefetch: 1 }]).await;
            match client.next_outcome().await {
                Outcome::Subscribed => break,
                // Another shard forgets its topics soon.
                refused => assert!(began.elapsed() < Duration::from_secs(30), "{refused:?}"),
            }
        }
        client.send(vec![Op::Unsubscribe { topic: topic(&name), name: sub("s") }]).await;
        client.next_outcome().await;
        client.seen.clear();
    }
    let mutations = storage.mutations();
    let forgotten = mutations
        .iter()
        .filter(|mutation| matches!(mutation, crate::storage::Mutation::Topic { last_seq, .. } if last_seq.0 == 0));
    assert!(forgotten.count() >= 3 * MOST, "{mutations:?}");
    let second = engine(&Arc::new(storage.reopened()), few()).await;
    let mut client = Client::new(&second);
    for n in 0..MOST {
        client.subscribe(&format!("new-{n}"), Some("s"), 1).await;
    }
}
