//! The settings that every source has: how an event of its feed becomes a broker event.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use broker_core::name::TopicName;
use broker_core::settings::source::{ID, MSG, TOPIC};
use broker_core::settings::{MadeSource, OnMissing, Priority, Problem, SourceStats};
use broker_core::source::Source;
use serde::Deserialize;

use crate::SourceCounters;
use crate::mapping::{Mapping, Pointer, PriorityRule, TopicRule};

/// The placeholder for the type of an event in a topic.
const EVENT: &str = "{event}";

/// Whether a feed gives its events types, which a topic may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTypes {
    /// `{event}` in a topic stands for the event's type.
    Named,
    /// The feed has no event types.
    None,
}

/// The values of the keys that `broker_core::settings::source` declares for all sources.
#[derive(Debug, Clone, Deserialize)]
pub struct MappingSettings {
    /// A topic name, or a JSON pointer if it begins with `/`.
    pub topic: String,
    /// A JSON pointer to the event's id; empty: the id is derived from the feed's own.
    pub id: String,
    /// A JSON pointer to the message; empty: all of the data.
    pub msg: String,
    /// The origin of the priority.
    pub priority: Priority,
    /// The reaction to an event without a message.
    pub on_missing: OnMissing,
}

impl MappingSettings {
    /// Turns the values into rules.
    ///
    /// # Errors
    /// Every key whose value is neither a topic name nor a JSON pointer.
    pub fn mapping(&self, types: EventTypes) -> Result<Mapping, Vec<Problem>> {
        let mut problems = Vec::new();
        let topic = self.topic(types).map_err(|problem| problems.push(problem)).ok();
        let mut pointer = |key: &str, text: &str| {
            Pointer::new(text).map_err(|error| problems.push(Problem::new(key, error.to_string()))).ok()
        };
        let id = if self.id.is_empty() { Some(None) } else { pointer(ID.name, &self.id).map(Some) };
        let msg = pointer(MSG.name, &self.msg);
        let priority = match &self.priority {
            Priority::Fixed(priority) => Some(PriorityRule::Fixed(*priority)),
            Priority::Pointer(text) => pointer("priority", text).map(PriorityRule::Pointer),
            Priority::Random { random: [low, high] } => Some(PriorityRule::Random(*low, *high)),
        };
        match (topic, id, msg, priority) {
            (Some(topic), Some(id), Some(msg), Some(priority)) => {
                Ok(Mapping { topic, id, msg, priority, on_missing: self.on_missing })
            }
            _ => Err(problems),
        }
    }

    fn topic(&self, types: EventTypes) -> Result<TopicRule, Problem> {
        let topic = &self.topic;
        if topic.starts_with('/') {
            let pointer = Pointer::new(topic).map_err(|error| Problem::new(TOPIC.name, error.to_string()))?;
            return Ok(TopicRule::Pointer(pointer));
        }
        let by_type = types == EventTypes::Named && topic.contains(EVENT);
        let name = if by_type { topic.replace(EVENT, "x") } else { topic.clone() };
        match TopicName::new(&name) {
            Ok(_) if by_type => Ok(TopicRule::ByType(topic.clone())),
            Ok(name) => Ok(TopicRule::Fixed(name)),
            Err(error) => {
                let text = format!("invalid topic name \"{topic}\": {error}; a JSON pointer begins with \"/\"");
                Err(Problem::new(TOPIC.name, text))
            }
        }
    }
}

/// Packs a source with its counters for the broker to start.
#[must_use]
pub fn made(source: impl Source, counters: Arc<SourceCounters>) -> MadeSource {
    let troubled = Arc::clone(&counters);
    let trouble = Arc::new(move || troubled.trouble());
    let stats = move || SourceStats {
        read: counters.read.load(Relaxed),
        published: counters.published.load(Relaxed),
        skipped: counters.skipped.load(Relaxed) + counters.refused.load(Relaxed),
    };
    MadeSource { source: Box::new(source), stats: Arc::new(stats), trouble }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(topic: &str, id: &str, priority: Priority) -> MappingSettings {
        let (id, msg) = (id.to_owned(), String::new());
        MappingSettings { topic: topic.to_owned(), id, msg, priority, on_missing: OnMissing::Null }
    }

    #[test]
    fn every_problem_is_named_by_its_key() {
        let bad = settings("a b", "id", Priority::Pointer("/a~".to_owned()));
        let problems = bad.mapping(EventTypes::None).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["topic", "id", "priority"]);
        assert!(problems[0].text.starts_with("invalid topic name \"a b\""), "{problems:?}");
    }

    #[test]
    fn a_topic_names_the_type_only_where_there_are_types() {
        let by_type = settings("wiki.{event}", "", Priority::Fixed(0));
        assert_eq!(by_type.mapping(EventTypes::Named).unwrap().topic, TopicRule::ByType("wiki.{event}".to_owned()));
        assert!(by_type.mapping(EventTypes::None).is_err());
    }
}
