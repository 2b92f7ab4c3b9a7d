//! Durable subscriptions that the process creates itself, so that events are kept before a client subscribes.

use broker_core::engine::{Engine, LinkEvent, Op, Outcome, Request, TopicStats};
use broker_core::name::{SubscriptionName, TopicName};

/// Creates the durable subscription `name` to `topic` unless it exists. The error says why it cannot be created.
pub(crate) async fn keep(engine: &dyn Engine, topic: &str, name: &str) -> Result<(), String> {
    // One from an earlier run is left alone: subscribing to it would take an event out and put it back, which would count as a
    // delivery.
    let there = topic_stats(engine, topic).await;
    if there.is_some_and(|stats| stats.subscriptions.iter().any(|one| one.name.as_deref() == Some(name))) {
        return Ok(());
    }
    let topic = TopicName::new(topic).map_err(|error| error.to_string())?;
    let name = Some(SubscriptionName::new(name).map_err(|error| error.to_string())?);
    let detach = Op::Detach { topic: topic.clone() };
    match ask(engine, vec![Op::Subscribe { topic, name, prefetch: 1 }, detach]).await.as_deref() {
        Some([Outcome::Refused(refusal), ..]) => Err(refusal.to_string()),
        Some(_) => Ok(()),
        None => Err("the engine has closed".to_owned()),
    }
}

/// The statistics of one topic, if it exists.
pub(crate) async fn topic_stats(engine: &dyn Engine, topic: &str) -> Option<TopicStats> {
    let topic = TopicName::new(topic).ok()?;
    match ask(engine, vec![Op::Stats(Some(topic))]).await?.pop()? {
        Outcome::Stats(stats) => stats.topics.into_iter().next(),
        _ => None,
    }
}

/// Sends `ops` to the engine over a link of their own, as a client would. `None`: the engine has closed.
async fn ask(engine: &dyn Engine, ops: Vec<Op>) -> Option<Vec<Outcome>> {
    let asked = ops.len();
    let mut link = engine.connect("herald".to_owned());
    let requests = (0..).zip(ops).map(|(slot, op)| Request { slot, op }).collect();
    link.requests.send(requests).await.ok()?;
    let mut outcomes: Vec<(u64, Outcome)> = Vec::new();
    while outcomes.len() < asked {
        for event in link.events.recv().await? {
            if let LinkEvent::Outcomes(more) = event {
                outcomes.extend(more);
            }
        }
    }
    outcomes.sort_by_key(|(slot, _)| *slot);
    Some(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}
