//! Pointers of a mapping that never find anything, which is probably a typing error.

use serde_json::value::RawValue;

use super::{Lookup, Mapping, Plain, Pointer, PriorityRule, TopicRule};

/// The events in which a pointer has to find something before it is warned of.
const ENOUGH: u32 = 10;

/// The key that a pointer configures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Topic,
    Id,
    Msg,
    Priority,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Id => "id",
            Self::Msg => "msg",
            Self::Priority => "priority",
        }
    }

    /// What becomes of an event in which its pointer finds nothing.
    fn effect(self) -> &'static str {
        match self {
            Self::Topic => "such events are left out",
            Self::Id => "ids are derived instead",
            Self::Msg => "on_missing says what becomes of such events",
            Self::Priority => "the priority is 0 instead",
        }
    }
}

/// Examines the first events of a source, and warns once of each pointer of its mapping that has found nothing in any of them.
///
/// A pointer that finds nothing in some events is usual, and no reason for a word. After the first events nothing is examined any more.
#[derive(Debug)]
pub struct PointerWatch {
    /// The pointers that have found nothing so far.
    unfound: Vec<(Key, Pointer)>,
    examined: u32,
}

impl PointerWatch {
    /// Watches the pointers of `mapping`.
    #[must_use]
    pub fn new(mapping: &Mapping) -> Self {
        let mut unfound = Vec::new();
        if let TopicRule::Pointer(pointer) = &mapping.topic {
            unfound.push((Key::Topic, pointer.clone()));
        }
        if let Some(pointer) = &mapping.id {
            unfound.push((Key::Id, pointer.clone()));
        }
        if !mapping.msg.names().is_empty() {
            unfound.push((Key::Msg, mapping.msg.clone()));
        }
        if let PriorityRule::Pointer(pointer) = &mapping.priority {
            unfound.push((Key::Priority, pointer.clone()));
        }
        Self { unfound, examined: 0 }
    }

    /// Examines an event of the source called `name`, as text that may be JSON.
    pub fn examine_text(&mut self, name: &str, data: &str) {
        if self.unfound.is_empty() {
            return;
        }
        match serde_json::from_str::<&RawValue>(data) {
            Ok(json) => self.examine(name, &json),
            Err(_) => self.examine(name, &Plain(data)),
        }
    }

    /// Examines an event of the source called `name`.
    pub fn examine(&mut self, name: &str, data: &impl Lookup) {
        if self.unfound.is_empty() {
            return;
        }
        self.unfound.retain(|(key, pointer)| match key {
            Key::Id => data.id(pointer).is_none(),
            Key::Msg => !matches!(data.message(pointer), Ok(Some(_))),
            Key::Topic | Key::Priority => !matches!(data.find(pointer), Ok(Some(_))),
        });
        self.examined += 1;
        if self.examined >= ENOUGH {
            self.report(name);
        }
    }

    /// Warns of the pointers that have found nothing, if any event was examined, and ends the watch. For the end of a feed, which may be
    /// shorter than the watch.
    pub fn report(&mut self, name: &str) {
        if self.examined == 0 {
            return;
        }
        for (key, pointer) in std::mem::take(&mut self.unfound) {
            tracing::warn!(
                source = %name,
                key = key.name(),
                pointer = %pointer,
                events = self.examined,
                effect = key.effect(),
                "a JSON pointer has found nothing in any event so far"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_core::name::TopicName;
    use broker_core::settings::OnMissing;

    fn mapping() -> Mapping {
        let pointer = |text| Pointer::new(text).unwrap();
        Mapping {
            topic: TopicRule::Pointer(pointer("/t")),
            id: Some(pointer("/i")),
            msg: pointer("/m"),
            priority: PriorityRule::Pointer(pointer("/p")),
            on_missing: OnMissing::Null,
        }
    }

    fn left(watch: &PointerWatch) -> Vec<&'static str> {
        watch.unfound.iter().map(|(key, _)| key.name()).collect()
    }

    #[test]
    fn a_pointer_that_finds_something_once_is_not_warned_of() {
        let mut watch = PointerWatch::new(&mapping());
        for (data, expected) in [
            (r#"{"x":1}"#, vec!["topic", "id", "msg", "priority"]),
            (r#"{"t":"a"}"#, vec!["id", "msg", "priority"]),
            (r#"{"p":1,"i":{}}"#, vec!["id", "msg"]),
            ("plain text", vec!["id"]),
            (r#"{"i":7}"#, vec![]),
        ] {
            watch.examine_text("s", data);
            assert_eq!(left(&watch), expected, "{data}");
        }
    }

    #[test]
    fn the_watch_ends_after_a_few_events_or_with_the_feed() {
        let mut watch = PointerWatch::new(&mapping());
        watch.report("s");
        assert_eq!(left(&watch).len(), 4, "no event, no warning");
        for _ in 0..ENOUGH {
            assert_eq!(left(&watch).len(), 4);
            watch.examine_text("s", "{}");
        }
        assert!(left(&watch).is_empty());
        let mut watch = PointerWatch::new(&mapping());
        watch.examine_text("s", "{}");
        watch.report("s");
        assert!(left(&watch).is_empty());
    }

    #[test]
    fn a_mapping_without_pointers_is_not_watched() {
        let plain = Mapping {
            topic: TopicRule::Fixed(TopicName::new("t").unwrap()),
            id: None,
            msg: Pointer::new("").unwrap(),
            priority: PriorityRule::Fixed(0),
            on_missing: OnMissing::Null,
        };
        assert!(PointerWatch::new(&plain).unfound.is_empty());
    }
}
