//! The demo's subscriber: a client like any other, over TCP, that acknowledges every event a moment after it came.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use transport_client::{Client, ClientConfig, Error, SubscribeOptions, SubscriptionName, TopicName};

/// The time it spends on each event, as the reference system's subscriber did.
const WORK: Duration = Duration::from_millis(50);

/// Acknowledges events until `stop`; reconnects by itself.
pub(super) async fn run(broker: String, topic: &str, name: &str, stop: CancellationToken) {
    if let Err(error) = acknowledge(&broker, topic, name, stop).await {
        tracing::warn!(%error, "the subscriber has ended");
    }
}

async fn acknowledge(broker: &str, topic: &str, name: &str, stop: CancellationToken) -> Result<(), Error> {
    let config = ClientConfig::new(broker.parse()?).name("herald demo");
    let client = Client::lazy(config)?;
    let options = SubscribeOptions::durable(SubscriptionName::new(name)?);
    let mut subscription = client.subscribe(TopicName::new(topic)?, options).await?;
    let acker = subscription.acker();
    loop {
        let delivery = tokio::select! {
            () = stop.cancelled() => break,
            delivery = subscription.next() => delivery,
        };
        let Some(delivery) = delivery else { return Err(subscription.end_reason().unwrap_or(Error::Closed)) };
        tokio::time::sleep(WORK).await;
        acker.ack(&delivery).await?;
    }
    subscription.close().await
}
