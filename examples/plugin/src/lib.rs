//! The smallest plugin of Herald: a source that publishes a number at regular intervals.
//!
//! It is the example of `CONTRIBUTING.md`. A test in `config/src/settings/tests/plugins.rs` registers it, reads a configuration
//! for it, and receives its events from a broker.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::event::{NewEvent, Payload, Priority};
use broker_core::name::{IdKey, TopicName};
use broker_core::settings::source::TOPIC;
use broker_core::settings::{Key, MadeSource, Plugin, Preset, Problem, Shape, SourceConfig, Values, read, values};
use broker_core::source::{Publisher, Source, SourceError};
use pipeline_source::settings::made;
use pipeline_source::{Publishing, SourceCounters};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn SourceConfig> = Plugin {
    doc: "A number at regular intervals.",
    keys: &[
        TOPIC.documented("The topic to publish to."),
        Key::with_default("every_ms", Shape::Int(1, 60_000), Preset::Int(1000), "Milliseconds between two events."),
    ],
    configure,
};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockConfig {
    topic: String,
    #[serde(rename = "every_ms", deserialize_with = "values::milliseconds")]
    every: Duration,
}

/// The keys have been checked: what is left is what their types cannot say.
fn configure(values: &Values) -> Result<Arc<dyn SourceConfig>, Vec<Problem>> {
    let ClockConfig { topic, every } = read(values)?;
    match TopicName::new(&topic) {
        Ok(topic) => Ok(Arc::new(Clock { topic, every })),
        Err(error) => Err(vec![Problem::new(TOPIC.name, error.to_string())]),
    }
}

#[derive(Debug)]
struct Clock {
    topic: TopicName,
    every: Duration,
}

impl SourceConfig for Clock {
    fn make(&self, name: &str) -> Result<MadeSource, SourceError> {
        let counters = Arc::new(SourceCounters::default());
        let (name, topic, every) = (name.to_owned(), self.topic.clone(), self.every);
        Ok(made(ClockSource { name, topic, every, counters: Arc::clone(&counters) }, counters))
    }
}

struct ClockSource {
    name: String,
    topic: TopicName,
    every: Duration,
    counters: Arc<SourceCounters>,
}

#[async_trait]
impl Source for ClockSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(
        self: Box<Self>,
        publisher: Arc<dyn Publisher>,
        shutdown: CancellationToken,
    ) -> Result<(), SourceError> {
        let publishing = Publishing::new(&self.name, publisher, Arc::clone(&self.counters), shutdown.clone());
        // The cursor is the last number published. It is committed with its event, so a restart neither skips nor repeats one.
        let Some(cursor) = publishing.cursor().await else { return Ok(()) };
        let mut number: u64 = cursor.and_then(|last| last.parse().ok()).unwrap_or(0);
        let mut ticks = tokio::time::interval(self.every);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            number += 1;
            self.counters.read.fetch_add(1, Relaxed);
            // `publish` returns early only on shutdown.
            if !publishing
                .publish(vec![(self.topic.clone(), event(&self.topic, number))], Some(number.to_string()))
                .await
            {
                return Ok(());
            }
        }
    }
}

/// The event of a number, whose id is derived from it: published twice, it replaces itself.
fn event(topic: &TopicName, number: u64) -> NewEvent {
    let id = number.to_string();
    let payload = Payload::encode(topic.as_str(), Priority(0), &id, &id);
    NewEvent { id: IdKey::of(&id), priority: Priority(0), ttl_ms: 0, delay_ms: 0, payload }
}
