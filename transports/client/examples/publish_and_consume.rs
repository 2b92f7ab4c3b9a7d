//! Publishes ten events, and consumes them most urgent first.
//!
//! Start a broker, then `cargo run -p transport-client --example publish_and_consume`. The broker is the one at
//! `HERALD_SERVER` (and `HERALD_TOKEN`, if it wants one), else at 127.0.0.1:8000.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use transport_client::{Address, Client, ClientConfig, Event, SubscribeOptions, TopicName};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = match std::env::var("HERALD_SERVER") {
        Ok(server) => server.parse()?,
        Err(_) => Address::default(),
    };
    let mut config = ClientConfig::new(address).name("publish_and_consume");
    if let Ok(token) = std::env::var("HERALD_TOKEN") {
        config = config.token(token);
    }
    let client = Client::connect(config).await?;
    let topic: TopicName = "example.greetings".parse()?;

    // Before the publishing: a subscription gets what is published after it was made.
    let mut subscription = client.subscribe(topic.clone(), SubscribeOptions::default()).await?;

    let mut events = Vec::new();
    for number in 0..10 {
        events.push(Event::json(&format!("greeting {number}"))?.with_priority(number));
    }
    for answer in client.publish_many(&topic, events).await {
        let confirmation = answer?;
        println!("published {} {:?}", confirmation.id, confirmation.level);
    }

    // With a prefetch of 1 the first is whatever came first; the rest comes by priority.
    for _ in 0..10 {
        let Some(delivery) = subscription.next().await else {
            return Err(subscription.end_reason().map_or("the subscription is over".into(), Into::into));
        };
        println!("received  {} priority {} msg {}", delivery.id(), delivery.priority(), delivery.msg());
        subscription.ack(&delivery).await?;
    }

    subscription.close().await?;
    client.close().await?;
    Ok(())
}
