//! Batches of sources: one atomic batch with their cursor, over however many shards.

use super::*;
use crate::engine::{Cursor, Handover, Offer};
use crate::policy::Overflow;
use crate::storage::Mutation;

#[tokio::test]
async fn a_batch_over_several_shards_and_its_cursor_are_stored_as_one() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, EngineSettings { shards: 8, ..EngineSettings::default() }).await;
    let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    let mut client = Client::new(&first);
    for name in &names {
        client.subscribe(name, Some("s"), 1).await;
    }
    let events = names.iter().map(|name| (topic(name), event(name, "x", 0))).collect();
    let cursor = Cursor { source: "feed".into(), value: "17".into() };
    let outcomes = first.publish(events, Some(cursor)).await.expect("the storage works");
    assert_eq!(outcomes, vec![Outcome::Published { replaced: false }; 20]);
    let batch = storage.batches().into_iter().find(|batch| batch.iter().any(|m| matches!(m, Mutation::Cursor { .. })));
    let events = batch.expect("the cursor is stored").into_iter().filter(|m| matches!(m, Mutation::Publish(_))).count();
    assert_eq!(events, 20);
    for _ in 0..20 {
        client.delivery().await;
    }
    let second = engine(&Arc::new(storage.reopened()), settings()).await;
    assert_eq!(second.cursor("feed").await, Ok(Some("17".into())));
}

#[tokio::test]
async fn concurrent_joint_batches_do_not_deadlock() {
    let engine = Arc::new(engine(&Arc::default(), EngineSettings { shards: 4, ..EngineSettings::default() }).await);
    let publishers = (0..16).map(|source| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            for n in 0..50 {
                let events = (0..8).map(|t| (topic(&format!("t{t}")), event(&format!("t{t}"), "x", 0))).collect();
                let cursor = Cursor { source: source.to_string(), value: n.to_string() };
                engine.publish(events, Some(cursor)).await.expect("the storage works");
            }
        })
    });
    let all = futures_util::future::join_all(publishers);
    for result in tokio::time::timeout(Duration::from_secs(30), all).await.expect("no deadlock") {
        result.expect("no panic");
    }
}

fn limited(max_waiting: u64, max_waiting_bytes: u64, overflow: Overflow) -> EngineSettings {
    let limit = TopicPolicy { max_waiting, max_waiting_bytes, overflow, ..TopicPolicy::default() };
    EngineSettings { policies: Policies::new(vec![("small*".into(), limit)]), shards: 4, ..settings() }
}

fn offer(number: u32, name: &str, id: &str) -> Offer {
    let (order, topic, event) = (number.into(), topic(name), event(name, id, 0));
    Offer { number, order, topic, event, aside: false, held: false }
}

async fn hand_over(engine: &impl Engine, events: Vec<Offer>, cursor: Option<&str>, again: bool) -> Vec<bool> {
    let handover = Handover { source: "feed".into(), events, cursor: cursor.map(Into::into), again };
    let outcomes = engine.hand_over(handover).await.expect("the storage works");
    outcomes.iter().map(|outcome| !outcome.stands_aside()).collect()
}

async fn standing(engine: &impl Engine) -> (Option<String>, Vec<u32>) {
    let standing = engine.standing("feed").await.expect("it can tell");
    (standing.cursor, standing.aside.iter().map(|offer| offer.number).collect())
}

#[tokio::test]
async fn events_of_a_full_topic_stand_aside_over_restarts_and_follow_once() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, limited(2, 0, Overflow::Reject)).await;
    let mut client = Client::new(&first);
    client.subscribe("small", Some("s"), 1).await;
    client.subscribe("other", Some("s"), 9).await;
    let batch = ["a", "b", "c", "d"].iter().zip(0..).map(|(id, n)| offer(n, "small", id));
    let batch: Vec<_> = batch.chain([offer(4, "other", "x")]).collect();
    assert_eq!(hand_over(&first, batch, Some("5"), false).await, [true, true, false, false, true]);
    assert_eq!(standing(&first).await, (Some("5".into()), vec![2, 3]), "the cursor passes what stands aside");
    // A smaller, later event does not overtake, although its own batch has found no full topic.
    let held = Offer { held: true, ..offer(4, "small", "e") };
    assert_eq!(hand_over(&first, vec![held], Some("6"), false).await, [false]);

    let storage = Arc::new(storage.reopened());
    let second = engine(&storage, limited(2, 0, Overflow::Reject)).await;
    assert_eq!(standing(&second).await, (Some("6".into()), vec![2, 3, 4]));
    let mut client = Client::new(&second);
    client.subscribe("small", Some("s"), 1).await;
    let mut came = Vec::new();
    while came.len() < 5 {
        let aside = second.standing("feed").await.expect("it can tell").aside;
        hand_over(&second, aside, None, false).await;
        let id = client.delivery().await.0;
        client.send(vec![ack("small", &[&id])]).await;
        client.next().await;
        came.push(id);
    }
    assert_eq!(came, ["a", "b", "c", "d", "e"]);
    let third = engine(&Arc::new(storage.reopened()), limited(2, 0, Overflow::Reject)).await;
    assert_eq!(standing(&third).await, (Some("6".into()), vec![]));
    let mut client = Client::new(&third);
    client.subscribe("small", Some("s"), 9).await;
    client.nothing_comes().await;
}

#[tokio::test]
async fn an_event_that_never_fits_is_finally_refused_under_every_overflow_and_stops_nothing() {
    for overflow in [Overflow::Reject, Overflow::DropLowest, Overflow::DeadLetter] {
        let engine = engine(&Arc::default(), limited(0, 80, overflow)).await;
        let mut client = Client::new(&engine);
        client.subscribe("small", Some("s"), 9).await;
        let large = offer(0, "small", &"x".repeat(90));
        let bytes = large.event.payload.len() as u64;
        let events = vec![large, offer(1, "small", "a")];
        let handover = Handover { source: "feed".into(), events, cursor: Some("2".into()), again: false };
        let outcomes = engine.hand_over(handover).await.expect("the storage works");
        let never = Refusal::NeverFits { topic: topic("small"), bytes, limit: 80 };
        assert_eq!(outcomes, [Outcome::Refused(never), Outcome::Published { replaced: false }], "{overflow:?}");
        assert_eq!(standing(&engine).await, (Some("2".into()), vec![]));
        assert_eq!(client.delivery().await.0, "a");
    }
}

#[tokio::test]
async fn a_batch_handed_over_again_is_not_stored_twice() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, limited(1, 0, Overflow::Reject)).await;
    let mut client = Client::new(&engine);
    client.subscribe("small", Some("s"), 9).await;
    let batch = || vec![offer(0, "small", "a"), offer(1, "small", "b")];
    assert_eq!(hand_over(&engine, batch(), Some("2"), false).await, [true, false]);
    client.delivery().await;
    client.send(vec![ack("small", &["a"])]).await;
    client.next().await;
    // The source has received no answer to the first attempt, and considers b new.
    assert_eq!(hand_over(&engine, batch(), Some("2"), true).await, [true, true]);
    assert_eq!(client.delivery().await, ("b".into(), 0));
    assert_eq!(standing(&engine).await, (Some("2".into()), vec![]));
    assert_eq!(hand_over(&engine, batch(), Some("2"), true).await, [true, true]);
    client.nothing_comes().await;
}

#[tokio::test]
async fn a_cursor_of_an_earlier_version_is_read_as_it_is() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, settings()).await;
    let cursor = Cursor { source: "feed".into(), value: "{\"token\": \"8\\n\"}".into() };
    first.publish(Vec::new(), Some(cursor.clone())).await.expect("stored");
    let second = engine(&Arc::new(storage.reopened()), settings()).await;
    assert_eq!(standing(&second).await, (Some(cursor.value), vec![]));
}
