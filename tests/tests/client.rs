//! The client crate against the real broker, which is killed under it.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use std::collections::HashSet;
use std::time::Duration;

use herald_tests::{PATIENCE, TestBroker};
use transport_client::{
    Address, Client, ClientConfig, Delivery, Event, Settled, SubscribeOptions, Subscription, SubscriptionName,
    TopicName,
};

fn config(broker: &TestBroker) -> ClientConfig {
    ClientConfig::new(broker.addr().to_string().parse::<Address>().unwrap())
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

fn durable(prefetch: u16) -> SubscribeOptions {
    SubscribeOptions::durable(SubscriptionName::new("s").unwrap()).prefetch(prefetch)
}

async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("something comes").expect("it goes on")
}

#[tokio::test]
async fn what_is_published_is_confirmed_delivered_and_settled() {
    let broker = TestBroker::start("");
    let client = Client::connect(config(&broker)).await.unwrap();
    let mut subscription = client.subscribe(topic(), durable(10)).await.unwrap();
    let event = Event::json(&serde_json::json!({"a": [1, "ä"]})).unwrap().with_priority(3);
    let confirmation = client.publish(&topic(), event).await.unwrap();
    let delivery = next(&mut subscription).await;
    assert_eq!((delivery.id(), delivery.priority(), delivery.redelivered()), (&confirmation.id, 3, 0));
    assert_eq!(delivery.msg(), r#"{"a":[1,"ä"]}"#);
    assert_eq!(subscription.nack(&delivery, None).await.unwrap(), Settled::Done);
    let delivery = next(&mut subscription).await;
    assert_eq!(delivery.redelivered(), 1);
    assert_eq!(subscription.ack_confirmed(std::slice::from_ref(&delivery)).await.unwrap(), [Settled::Done]);
    assert_eq!(subscription.ack_confirmed(&[delivery]).await.unwrap(), [Settled::NotInFlight]);
    subscription.unsubscribe().await.unwrap();
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_killed_broker_costs_a_pause_and_no_event() {
    const EVENTS: usize = 20_000;
    let mut broker = TestBroker::start("");
    let client = Client::connect(config(&broker)).await.unwrap();
    let mut subscription = client.subscribe(topic(), durable(100)).await.unwrap();
    let publisher = client.publisher(topic());
    let publishing = tokio::spawn(async move {
        let mut confirmed = HashSet::new();
        for chunk in 0..EVENTS / 500 {
            let events = (0..500).map(|n| Event::json(&(chunk * 500 + n)).unwrap());
            for confirmation in publisher.publish_many(events).await {
                confirmed.insert(confirmation.unwrap().id);
            }
        }
        confirmed
    });
    let mut seen = HashSet::new();
    let mut kills = 0;
    while seen.len() < EVENTS {
        let delivery = next(&mut subscription).await;
        seen.insert(delivery.id().clone());
        subscription.ack(&delivery).await.unwrap();
        if seen.len() >= (kills + 1) * 4000 && kills < 4 {
            kills += 1;
            broker.kill();
            tokio::time::sleep(Duration::from_millis(50)).await;
            broker.run();
        }
    }
    let confirmed = publishing.await.unwrap();
    assert_eq!(confirmed.len(), EVENTS);
    assert_eq!(confirmed, seen);
    assert!(subscription.resubscribed() >= 4, "{}", subscription.resubscribed());
}

#[tokio::test]
async fn a_full_topic_is_an_error_of_that_publish_alone() {
    let broker = TestBroker::start("[topics.\"t\"]\nmax_waiting = 1\n");
    let client = Client::connect(config(&broker)).await.unwrap();
    let _subscription = client.subscribe(topic(), durable(1)).await.unwrap();
    client.publish(&topic(), Event::json("first").unwrap()).await.unwrap();
    let error = client.publish(&topic(), Event::json("second").unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("topic t is full"), "{error}");
    client.publish(&TopicName::new("u").unwrap(), Event::json("third").unwrap()).await.unwrap();
}
