//! Keys that sources share: the mapping from a feed's event to a broker event.

use serde::Deserialize;

use super::key::{Key, Preset, Shape};

/// The origin of an event's priority.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Priority {
    /// The same for every event.
    Fixed(i32),
    /// A JSON pointer into the event's data.
    Pointer(String),
    /// A random priority between the two ends, both included.
    Random {
        /// The two ends.
        random: [i32; 2],
    },
}

/// The reaction to an event in which the pointer of `msg` finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// Publish it with `msg` null.
    #[default]
    Null,
    /// Do not publish it.
    Skip,
}

/// The topic. A source whose feed offers more than pointers documents it differently.
pub const TOPIC: Key =
    Key::required("topic", Shape::Text, "The topic to publish to, or a JSON pointer (\"/a/b\") into the event's data.");

/// The id.
pub const ID: Key = Key::with_default(
    "id",
    Shape::Text,
    Preset::Text(""),
    "A JSON pointer to the event's id; \"\": derived from the feed's own ids, so that nothing is published twice.",
);

/// The message.
pub const MSG: Key = Key::with_default(
    "msg",
    Shape::Text,
    Preset::Text(""),
    "A JSON pointer to the part that is published; \"\": all of the event's data.",
);

/// The priority.
pub const PRIORITY: Key = Key::with_default(
    "priority",
    Shape::Priority,
    Preset::Int(0),
    "An integer, a JSON pointer, or { random = [0, 6] }. Higher is delivered first.",
);

/// The reaction to a missing message.
pub const ON_MISSING: Key = Key::with_default(
    "on_missing",
    Shape::Word(&["null", "skip"]),
    Preset::Text("null"),
    "Where msg finds nothing: \"null\" publishes null, \"skip\" publishes no event. (A missing id is derived from the feed's,\n\
     a missing priority is 0, and an event without a topic is never published.)",
);
