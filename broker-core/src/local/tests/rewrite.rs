//! Events that the storage moves.

use super::*;
use crate::storage::Mutation;

#[tokio::test]
async fn events_that_the_storage_moves_are_stored_again_only_if_they_still_wait() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, settings()).await;
    let mut client = Client::new(&first);
    client.subscribe("t", Some("s"), 1).await;
    for id in ["a", "b", "c"] {
        client.publish("t", id, 0, true).await;
    }
    for _ in 0..4 {
        client.next().await;
    }
    client.send(vec![ack("t", &["a"])]).await;
    client.next().await;
    client.delivery().await;
    client.send(vec![Op::Nack { topic: topic("t"), id: IdKey::of("b"), delay_ms: 60_000 }]).await;
    client.next().await;
    client.delivery().await;
    storage.janitor().rewrite(storage.events()).await.expect("moved");
    let moved: Vec<_> = storage
        .mutations()
        .into_iter()
        .filter_map(|mutation| match mutation {
            Mutation::Rewrite { event, holders } => Some((event.payload.id().into_owned(), holders)),
            _ => None,
        })
        .collect();
    assert_eq!(moved.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(moved[0].1[0].deliveries, 1);
    assert!(moved[0].1[0].due_at.is_some());
    // They have left their old places, so a second request for those moves nothing.
    let count = storage.mutations().len();
    let old = storage.events().into_iter().take(3).collect();
    storage.janitor().rewrite(old).await.expect("nothing to do");
    let rewrites = storage.mutations()[count..].iter().filter(|m| matches!(m, Mutation::Rewrite { .. })).count();
    assert_eq!(rewrites, 0);
    let second = engine(&Arc::new(storage.reopened()), settings()).await;
    let mut client = Client::new(&second);
    client.subscribe("t", Some("s"), 5).await;
    assert_eq!(client.delivery().await.0, "c");
    client.nothing_comes().await;
}
