//! The client crate against a real broker, which is killed while in use.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::collections::HashSet;
use std::time::Duration;

use herald_tests::{PATIENCE, TestBroker};
use transport_client::{
    Address, Client, ClientConfig, Connection, Delivery, Event, Settled, SubscribeOptions, Subscription,
    SubscriptionName, TopicName,
};

fn config(broker: &TestBroker) -> ClientConfig {
    ClientConfig::new(broker.addr().to_string().parse::<Address>().unwrap())
}

/// A broker with a WebSocket, and a client's configuration for it.
fn web_socket() -> (TestBroker, ClientConfig) {
    let broker = TestBroker::start("[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n");
    let address = format!("ws://{}", broker.addr_of("ws")).parse::<Address>().unwrap();
    (broker, ClientConfig::new(address))
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

fn durable(prefetch: u16) -> SubscribeOptions {
    SubscribeOptions::durable(SubscriptionName::new("s").unwrap()).prefetch(prefetch)
}

async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .expect("a delivery arrives")
        .expect("the subscription continues")
}

#[tokio::test]
async fn an_event_is_published_confirmed_delivered_and_settled() {
    let broker = TestBroker::start("");
    published_confirmed_delivered_and_settled(config(&broker)).await;
    let (_broker, config) = web_socket();
    published_confirmed_delivered_and_settled(config).await;
}

async fn published_confirmed_delivered_and_settled(config: ClientConfig) {
    let client = Client::connect(config).await.unwrap();
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
async fn a_terminated_event_is_peeked_at_and_moved_back() {
    let broker = TestBroker::start("");
    let client = Client::connect(config(&broker)).await.unwrap();
    let mut subscription = client.subscribe(topic(), durable(10)).await.unwrap();
    let confirmation = client.publish(&topic(), Event::json("x").unwrap()).await.unwrap();
    let delivery = next(&mut subscription).await;
    assert_eq!(subscription.touch(&delivery).await.unwrap(), Settled::Done);
    assert_eq!(subscription.term(&delivery, Some("no such user")).await.unwrap(), Settled::Done);
    let mut connection = Connection::open(&config(&broker)).await.unwrap();
    let dead = TopicName::new("t.dead").unwrap();
    let letters = connection.peek(&dead, None, None).await.unwrap();
    assert!(letters.len() == 1 && letters[0].contains(r#""note":"no such user""#), "{letters:?}");
    assert_eq!(connection.redrive(&topic(), None).await.unwrap(), 1);
    let again = next(&mut subscription).await;
    assert_eq!((again.id(), again.redelivered()), (&confirmation.id, 0));
    assert_eq!(subscription.term(&again, None).await.unwrap(), Settled::Done);
    assert_eq!(connection.purge(&dead, Some(&SubscriptionName::new("dead").unwrap())).await.unwrap(), 1);
    connection.quit().await.unwrap();
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_killed_broker_costs_a_pause_and_no_event() {
    let broker = TestBroker::start("");
    let config = config(&broker);
    killed(broker, config).await;
}

#[tokio::test]
async fn a_killed_broker_costs_no_event_over_a_web_socket() {
    let (broker, config) = web_socket();
    killed(broker, config).await;
}

async fn killed(mut broker: TestBroker, config: ClientConfig) {
    const EVENTS: usize = 20_000;
    let client = Client::connect(config).await.unwrap();
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

#[tokio::test]
async fn events_of_any_size_go_both_ways_over_a_web_socket() {
    let (_broker, config) = web_socket();
    let client = Client::connect(config).await.unwrap();
    let mut subscription = client.subscribe(topic(), durable(100)).await.unwrap();
    for size in [0, 1, 124, 126, 65_000, 65_535, 65_536, 70_000, 200_000, 1_034_000] {
        let text = "ä".repeat(size / 2);
        client.publish(&topic(), Event::json(&text).unwrap()).await.unwrap();
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.msg_as::<String>().unwrap(), text);
        subscription.ack(&delivery).await.unwrap();
    }
    let error = client.publish(&topic(), Event::json(&"x".repeat(1 << 20)).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("the broker takes 1048576"), "{error}");
}

#[tokio::test]
async fn a_server_without_a_web_socket_is_reported() {
    let (broker, _) = web_socket();
    for (path, status) in
        [("/elsewhere", "404 Not Found: there is nothing here: the WebSocket is at /ws"), ("/", "404")]
    {
        let address = format!("ws://{}{path}", broker.addr_of("ws")).parse::<Address>().unwrap();
        let error = Client::connect(ClientConfig::new(address)).await.unwrap_err();
        assert!(error.to_string().contains(status), "{error}");
    }
    let address = format!("ws://{}/ws", broker.addr()).parse::<Address>().unwrap();
    let error = Client::connect(ClientConfig::new(address)).await.unwrap_err();
    assert!(error.to_string().contains("it is no WebSocket"), "{error}");
}
