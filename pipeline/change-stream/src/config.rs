//! The settings of a source: the collections to watch, and the policies.

use std::fmt;

use broker_core::settings::{Preset, from_defaults};
use serde::{Deserialize, Deserializer, Serialize};

use crate::plugin::WATCHED;

/// The policy for when the oplog no longer reaches back to the resume token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLostHistory {
    /// Stop, with advice in the error.
    #[default]
    Fail,
    /// Continue from now, and publish an event that reports the gap.
    Restart,
}

/// How an update gets the whole document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullDocument {
    /// MongoDB looks it up when the change is read: it may be newer than the change, or gone (null).
    #[default]
    Lookup,
    /// The post-image, where the collection keeps post-images; else null.
    WhenAvailable,
    /// The post-image; the source stops where there is none.
    Required,
    /// Updates come without the document.
    Off,
}

/// Whether a change brings the document as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BeforeChange {
    /// Changes come without it.
    #[default]
    Off,
    /// The pre-image, where the collection keeps pre-images; else null.
    WhenAvailable,
    /// The pre-image; the source stops where there is none.
    Required,
}

/// The settings of a [`ChangeStreamSource`](super::ChangeStreamSource).
#[derive(Clone, Deserialize)]
pub struct ChangeStreamConfig {
    /// The connection string (`mongodb://` or `mongodb+srv://`), which may hold a password.
    pub uri: String,
    /// The database to watch; `None`: the one in the connection string.
    pub database: Option<String>,
    /// The collections to watch; none: the whole database.
    #[serde(default, rename = "collection", deserialize_with = "one_or_several")]
    pub collections: Vec<String>,
    /// The operations to publish, by MongoDB's names; `"*"`: all.
    pub operations: Vec<String>,
    /// The policy for lost history.
    pub on_lost_history: OnLostHistory,
    /// How an update gets the whole document.
    pub full_document: FullDocument,
    /// Whether a change brings the document as it was before.
    #[serde(rename = "full_document_before_change")]
    pub before_change: BeforeChange,
}

/// One name or a list of names.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Names::deserialize(deserializer)? {
        Names::One(name) => vec![name],
        Names::Several(names) => names,
    })
}

/// The scope of a token. The same token denotes a position in a different stream if any of this changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scope {
    pub(super) database: String,
    /// Sorted.
    pub(super) collections: Vec<String>,
    /// Sorted.
    pub(super) operations: Vec<String>,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ChangeStreamConfigError {
    /// The offending field of [`ChangeStreamConfig`].
    pub key: &'static str,
    /// The problem and the accepted values, without quoting possible secrets.
    pub reason: String,
}

fn wrong<T>(key: &'static str, reason: impl Into<String>) -> Result<T, ChangeStreamConfigError> {
    Err(ChangeStreamConfigError { key, reason: reason.into() })
}

impl ChangeStreamConfig {
    /// Watches the whole database that `uri` names, with default policies.
    pub fn new(uri: impl Into<String>) -> Self {
        let [_, options @ ..] = WATCHED;
        Self { uri: uri.into(), ..from_defaults(&[&[WATCHED[0].defaulting_to(Preset::Text(""))], &options]) }
    }

    /// Checks everything that can be checked without a connection, and returns the scope.
    pub(super) fn check(&self) -> Result<Scope, ChangeStreamConfigError> {
        let parsed = match pipeline_mongodb::parse(&self.uri) {
            Ok(parsed) => parsed,
            Err(reason) => return wrong("uri", reason),
        };
        let Some(database) = self.database.clone().or(parsed.default_database) else {
            return wrong(
                "database",
                "no database given: set database = \"…\", or put it into the uri (mongodb://host:27017/database)",
            );
        };
        if database.is_empty() || database.len() > 63 || database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
            return wrong("database", format!("{database:?} is not a valid MongoDB database name"));
        }
        if ["admin", "config", "local"].contains(&database.as_str()) {
            return wrong("database", format!("MongoDB offers no change streams on its own database {database:?}"));
        }
        for collection in &self.collections {
            if collection.is_empty() || collection.len() > 255 || collection.contains(['$', '\0']) {
                return wrong("collection", format!("{collection:?} is not a valid MongoDB collection name"));
            }
            if collection.starts_with("system.") {
                return wrong(
                    "collection",
                    format!("MongoDB offers no change streams on its own collections, such as {collection:?}"),
                );
            }
        }
        if self.operations.is_empty() || self.operations.iter().any(String::is_empty) {
            return wrong(
                "operations",
                "expected at least one operation, such as \"insert\", \"update\", \"replace\", \"delete\", or \"*\" for all",
            );
        }
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            names
        };
        Ok(Scope { database, collections: sorted(&self.collections), operations: sorted(&self.operations) })
    }
}

impl fmt::Debug for ChangeStreamConfig {
    /// Leaves out the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeStreamConfig")
            .field("database", &self.database)
            .field("collections", &self.collections)
            .field("operations", &self.operations)
            .field("on_lost_history", &self.on_lost_history)
            .field("full_document", &self.full_document)
            .field("before_change", &self.before_change)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_setting_overrides_the_uri() {
        let mut config = ChangeStreamConfig::new("mongodb://u:p@h:27017/one?replicaSet=rs0");
        assert_eq!(config.check().unwrap().database, "one");
        config.database = Some("two".to_owned());
        assert_eq!(config.check().unwrap().database, "two");
        let none = ChangeStreamConfig::new("mongodb://h").check().unwrap_err();
        assert_eq!(none.key, "database");
    }

    #[test]
    fn errors_name_the_key_without_the_password() {
        for uri in
            ["http://u:s3cret@h/", "mongodb://u:s3cret@h:x/d", "mongodb://u:s3c%ret@h/d", "", "mongodb://u:s3cret:@h/"]
        {
            let error = ChangeStreamConfig::new(uri).check().unwrap_err();
            assert_eq!(error.key, "uri", "{uri}");
            assert!(!error.reason.contains("s3c"), "{error}");
        }
        let bad = |change: fn(&mut ChangeStreamConfig)| {
            let mut config = ChangeStreamConfig::new("mongodb://h/d");
            change(&mut config);
            config.check().unwrap_err().key
        };
        assert_eq!(bad(|config| config.database = Some("a.b".to_owned())), "database");
        assert_eq!(bad(|config| config.collections = vec![String::new()]), "collection");
        assert_eq!(bad(|config| config.collections = vec!["system.buckets.x".to_owned()]), "collection");
        assert_eq!(bad(|config| config.database = Some("local".to_owned())), "database");
        assert_eq!(bad(|config| config.operations.clear()), "operations");
        assert!(!format!("{:?}", ChangeStreamConfig::new("mongodb://u:s3cret@h/d")).contains("s3cret"));
    }

    #[test]
    fn the_order_of_collections_is_not_part_of_the_scope() {
        let scope = |names: [&str; 2]| {
            let mut config = ChangeStreamConfig::new("mongodb://h/d");
            config.collections = names.map(str::to_owned).to_vec();
            config.check().unwrap()
        };
        assert_eq!(scope(["a", "b"]), scope(["b", "a"]));
    }
}
