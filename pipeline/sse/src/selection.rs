//! Selects the events of a feed to publish.

use serde_json::value::RawValue;

use pipeline_source::mapping::Pointer;

/// The events of a feed to publish. The default is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The wanted types, as the feed's `event:` has them; empty: all. An event without one is of type `message`.
    pub events: Vec<String>,
    /// Pointers into the data, each with the string that excludes an event.
    pub skip: Vec<(Pointer, String)>,
}

impl Selection {
    /// Whether an event of this type and with these data is wanted.
    #[must_use]
    pub fn wants(&self, event_type: &str, data: &str) -> bool {
        if !self.events.is_empty() && !self.events.iter().any(|wanted| wanted == event_type) {
            return false;
        }
        if self.skip.is_empty() {
            return true;
        }
        // Data that are not JSON have nothing anywhere.
        let Ok(json) = serde_json::from_str::<&RawValue>(data) else { return true };
        let is_there = |pointer: &Pointer, unwanted: &str| {
            let found = pointer.find(json).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
            found.is_some_and(|found| found == unwanted)
        };
        !self.skip.iter().any(|(pointer, unwanted)| is_there(pointer, unwanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_and_strings_decide() {
        let all = Selection::default();
        assert!(all.wants("delete", "1") && all.wants("message", "panic"));
        let some = Selection {
            events: vec!["update".to_owned(), "message".to_owned()],
            skip: vec![(Pointer::new("/meta/domain").unwrap(), "canary".to_owned())],
        };
        for (event_type, data, wanted) in [
            ("update", r#"{"meta":{"domain":"en.wikipedia.org"}}"#, true),
            ("message", r#"{"meta":{"domain":"canary"}}"#, false),
            ("message", r#"{"meta":{"domain":"can\u0061ry"}}"#, false),
            ("message", r#"{"meta":{"domain":["canary"]}}"#, true),
            ("message", r#"{"domain":"canary"}"#, true),
            ("message", "canary", true),
            ("delete", "1", false),
            ("Update", "1", false),
        ] {
            assert_eq!(some.wants(event_type, data), wanted, "{event_type} {data}");
        }
    }
}
