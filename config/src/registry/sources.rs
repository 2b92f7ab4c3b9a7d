//! The sources that this build has: what is wrong with their settings, and what makes them.

#[cfg(feature = "mongodb")]
pub(super) mod change_stream;
#[cfg(feature = "sse")]
pub(super) mod sse;

use crate::validate::SourceSettings;

/// What is wrong with a source's settings, by key, as far as can be told without connecting.
pub(crate) fn source_problems(settings: &SourceSettings) -> Vec<(&'static str, String)> {
    // The check refuses a source of a kind that this build has not.
    #[cfg(not(any(feature = "sse", feature = "mongodb")))]
    let problems = Vec::new();
    #[cfg(any(feature = "sse", feature = "mongodb"))]
    let mut problems = mapping::problems(settings);
    #[cfg(feature = "sse")]
    problems.extend(sse::problems(settings));
    #[cfg(feature = "mongodb")]
    problems.extend(change_stream::problems(settings));
    #[cfg(not(any(feature = "sse", feature = "mongodb")))]
    let _ = settings;
    problems
}

/// What all sources have: where topic, id, message and priority come from.
#[cfg(any(feature = "sse", feature = "mongodb"))]
mod mapping {
    use broker_core::name::TopicName;
    use pipeline::mapping::{Mapping, OnMissing, Pointer, PriorityRule, TopicRule};

    use crate::settings::raw;
    use crate::validate::{FeedSettings, Priority, SourceSettings};

    /// What stands for the type of an SSE feed's event in a topic.
    const EVENT: &str = "{event}";

    fn is_by_type(settings: &SourceSettings) -> bool {
        matches!(settings.feed, FeedSettings::Sse { .. }) && settings.topic.contains(EVENT)
    }

    pub(super) fn problems(settings: &SourceSettings) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut pointers = vec![("id", &settings.id), ("msg", &settings.msg)];
        match &settings.priority {
            Priority::Pointer(pointer) => pointers.push(("priority", pointer)),
            Priority::Fixed(_) | Priority::Random(..) => {}
        }
        if settings.topic.starts_with('/') {
            pointers.push(("topic", &settings.topic));
        } else {
            let topic = &settings.topic;
            let like = if is_by_type(settings) { topic.replace(EVENT, "x") } else { topic.clone() };
            if let Err(error) = TopicName::new(&like) {
                let text = format!("invalid topic name \"{topic}\": {error}; a JSON pointer begins with \"/\"");
                problems.push(("topic", text));
            }
        }
        for (key, pointer) in pointers {
            if let Err(error) = Pointer::new(pointer) {
                problems.push((key, error.to_string()));
            }
        }
        problems
    }

    pub(super) fn mapping(settings: &SourceSettings) -> Result<Mapping, Box<dyn std::error::Error>> {
        let topic = match settings.topic.strip_prefix('/') {
            Some(_) => TopicRule::Pointer(Pointer::new(&settings.topic)?),
            None if is_by_type(settings) => TopicRule::ByType(settings.topic.clone()),
            None => TopicRule::Fixed(TopicName::new(&settings.topic)?),
        };
        let priority = match &settings.priority {
            Priority::Fixed(priority) => PriorityRule::Fixed(*priority),
            Priority::Pointer(pointer) => PriorityRule::Pointer(Pointer::new(pointer)?),
            Priority::Random(low, high) => PriorityRule::Random(*low, *high),
        };
        Ok(Mapping {
            topic,
            id: (!settings.id.is_empty()).then(|| Pointer::new(&settings.id)).transpose()?,
            msg: Pointer::new(&settings.msg)?,
            priority,
            on_missing: match settings.on_missing {
                raw::OnMissing::Null => OnMissing::Null,
                raw::OnMissing::Skip => OnMissing::Skip,
            },
        })
    }
}

/// A source with counters, as the broker shows it.
#[cfg(any(feature = "sse", feature = "mongodb"))]
fn built(
    source: Box<dyn broker_core::source::Source>,
    counters: std::sync::Arc<pipeline::SourceCounters>,
) -> super::BuiltSource {
    use std::sync::atomic::Ordering::Relaxed;
    let figures = move || super::SourceFigures {
        read: counters.read.load(Relaxed),
        published: counters.published.load(Relaxed),
        skipped: counters.skipped.load(Relaxed) + counters.refused.load(Relaxed),
    };
    super::BuiltSource { source, figures: std::sync::Arc::new(figures) }
}

/// Why a source cannot be made, though its settings were checked.
#[cfg(any(feature = "sse", feature = "mongodb"))]
fn wrong(settings: &SourceSettings, error: &dyn std::error::Error) -> broker_core::source::SourceError {
    broker_core::source::SourceError {
        source_name: settings.name.clone(),
        reason: crate::error_chain(error),
        cause: None,
    }
}
