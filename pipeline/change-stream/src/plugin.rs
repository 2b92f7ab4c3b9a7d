//! `[[sources]]` with `kind = "change-stream"`.

use std::sync::Arc;

use broker_core::settings::source::{ID, MSG, ON_MISSING, PRIORITY, TOPIC};
use broker_core::settings::{Key, MadeSource, Plugin, Preset, Problem, Secret, Shape, SourceConfig, Values, read};
use broker_core::source::SourceError;
use pipeline_source::mapping::Mapping;
use pipeline_source::settings::{EventTypes, MappingSettings, made};
use serde::Deserialize;

use crate::{ChangeStreamConfig, ChangeStreamSource};

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn SourceConfig> =
    Plugin { doc: "The changes of a MongoDB replica set, or of a sharded cluster.", keys: KEYS, configure };

const KEYS: &[Key] = &[
    WATCHED[0],
    WATCHED[1],
    WATCHED[2],
    TOPIC.documented(
        "The topic to publish to, or a JSON pointer into the change event, such as \"/ns/coll\". Events about gaps need a topic.",
    ),
    ID.documented(
        "A JSON pointer to the event's id; \"\": derived from the resume token, so that nothing is published twice. With\n\
         \"/documentKey/_id\", of whatever type, a newer change of a document replaces an older one that still waits.",
    ),
    MSG.documented(
        "A JSON pointer to the part that is published, such as \"/fullDocument\"; \"\": the whole change event. BSON becomes\n\
         relaxed extended JSON.",
    ),
    PRIORITY,
    ON_MISSING,
    WATCHED[3],
    WATCHED[4],
    WATCHED[5],
    WATCHED[6],
];

/// The keys of a [`ChangeStreamConfig`].
pub(crate) const WATCHED: [Key; 7] = [
    Key::required(
        "uri",
        Shape::Text,
        "The connection string, such as \"mongodb://user:password@host:27017/database?replicaSet=rs0&authSource=admin\".",
    )
    .secret(Secret::InUrl),
    Key::optional("database", Shape::Text, "The database to watch; without it, the one that the uri names."),
    Key::optional(
        "collection",
        Shape::TextOrTexts,
        "The collection to watch, or a list of them; without it, all of the database.",
    ),
    Key::with_default(
        "operations",
        Shape::Texts,
        Preset::Texts(&["insert", "update", "replace", "delete"]),
        "The operations to publish, by MongoDB's names; [\"*\"]: all, also those of later versions.",
    ),
    Key::with_default(
        "on_lost_history",
        Shape::Word(&["fail", "restart"]),
        Preset::Text("fail"),
        "When the oplog no longer reaches back to the resume token: \"fail\" stops the source with an error, \"restart\" continues\n\
         from now and publishes an event about the gap.",
    ),
    Key::with_default(
        "full_document",
        Shape::Word(&["lookup", "when-available", "required", "off"]),
        Preset::Text("lookup"),
        "How an update gets the whole document: \"lookup\" reads it now (it may be newer than the change), \"when-available\" and\n\
         \"required\" take the post-image that the collection keeps (changeStreamPreAndPostImages), \"off\" leaves it out.",
    ),
    Key::with_default(
        "full_document_before_change",
        Shape::Word(&["off", "when-available", "required"]),
        Preset::Text("off"),
        "Whether a change brings the document as it was before: the pre-image that the collection keeps.",
    ),
];

/// The values of [`KEYS`].
#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(flatten)]
    watched: ChangeStreamConfig,
    #[serde(flatten)]
    mapping: MappingSettings,
}

/// A checked configuration, from which the source is made.
#[derive(Debug)]
struct Watch {
    config: ChangeStreamConfig,
    mapping: Mapping,
}

fn configure(values: &Values) -> Result<Arc<dyn SourceConfig>, Vec<Problem>> {
    let Settings { watched, mapping } = read(values)?;
    let mut problems = Vec::new();
    let mapping = mapping.mapping(EventTypes::None).map_err(|more| problems.extend(more)).ok();
    problems.extend(watched.check().err().map(|error| Problem::new(error.key, error.reason)));
    match mapping {
        Some(mapping) if problems.is_empty() => Ok(Arc::new(Watch { config: watched, mapping })),
        _ => Err(problems),
    }
}

impl SourceConfig for Watch {
    fn make(&self, name: &str) -> Result<MadeSource, SourceError> {
        let source = ChangeStreamSource::new(name, self.config.clone(), self.mapping.clone())
            .map_err(|error| SourceError { source_name: name.to_owned(), reason: error.to_string(), cause: None })?;
        let counters = source.counters();
        Ok(made(source, counters))
    }
}

#[cfg(test)]
mod tests {
    use broker_core::settings::defaults;
    use serde_json::json;

    use super::*;

    fn problems(more: serde_json::Value) -> Vec<Problem> {
        let mut values = defaults(KEYS);
        values.extend([("uri".to_owned(), json!("mongodb://u:s3cret@h/d")), ("topic".to_owned(), json!("t"))]);
        values.extend(more.as_object().cloned().unwrap_or_default());
        configure(&values).map(|config| assert!(!format!("{config:?}").contains("s3cret"))).err().unwrap_or_default()
    }

    #[test]
    fn the_keys_and_the_configuration_agree() {
        for collection in [json!("c"), json!(["a", "b"])] {
            assert_eq!(problems(json!({ "collection": collection })), []);
        }
        assert_eq!(problems(json!({ "database": "x", "full_document_before_change": "when-available" })), []);
    }

    #[test]
    fn problems_are_named_by_their_keys() {
        let problems = problems(json!({ "uri": "http://u:s3cret@h/d", "msg": "x" }));
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["msg", "uri"], "{problems:?}");
        assert!(problems.iter().all(|problem| !problem.text.contains("s3cret")), "{problems:?}");
    }
}
