//! What to watch, and by which policies.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The operations that are published unless others are asked for: the changes of documents.
pub const DEFAULT_OPERATIONS: [&str; 4] = ["insert", "update", "replace", "delete"];

/// What to do when MongoDB does not have any more what comes after the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLostHistory {
    /// Stop, and say what to do.
    #[default]
    Fail,
    /// Go on from now, and publish an event that tells of the gap.
    Restart,
}

/// How an update gets the whole document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FullDocument {
    /// It is looked up when the change is read: it may be newer than the change, or gone (null).
    #[default]
    Lookup,
    /// As it was right after the change, where the collection keeps post-images; else null.
    WhenAvailable,
    /// The same; where there is none the source stops.
    Required,
    /// Updates come without it.
    Off,
}

/// Whether a change brings the document as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BeforeChange {
    /// It does not.
    #[default]
    Off,
    /// Where the collection keeps pre-images; else null.
    WhenAvailable,
    /// The same; where there is none the source stops.
    Required,
}

/// What a [`ChangeStreamSource`](super::ChangeStreamSource) watches and how.
#[derive(Clone)]
pub struct ChangeStreamConfig {
    /// A connection string of MongoDB (`mongodb://` or `mongodb+srv://`). It may hold a password.
    pub uri: String,
    /// The database; `None`: the one that the connection string names.
    pub database: Option<String>,
    /// The collections; none: all of the database.
    pub collections: Vec<String>,
    /// The operations to publish, by the names that MongoDB gives them; `"*"`: all.
    pub operations: Vec<String>,
    /// What to do when history is lost.
    pub on_lost_history: OnLostHistory,
    /// How an update gets the whole document.
    pub full_document: FullDocument,
    /// Whether a change brings the document as it was before.
    pub before_change: BeforeChange,
}

/// What a token belongs to. With another scope the same token would mean something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scope {
    pub(super) database: String,
    /// Sorted.
    pub(super) collections: Vec<String>,
    /// Sorted.
    pub(super) operations: Vec<String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ChangeStreamConfigError {
    /// The field of [`ChangeStreamConfig`] that is wrong.
    pub key: &'static str,
    /// What is wrong with it and what was expected, without quoting what may be secret.
    pub reason: String,
}

fn wrong<T>(key: &'static str, reason: impl Into<String>) -> Result<T, ChangeStreamConfigError> {
    Err(ChangeStreamConfigError { key, reason: reason.into() })
}

impl ChangeStreamConfig {
    /// Watches all of the database that `uri` names, with the defaults.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            database: None,
            collections: Vec::new(),
            operations: DEFAULT_OPERATIONS.map(str::to_owned).to_vec(),
            on_lost_history: OnLostHistory::default(),
            full_document: FullDocument::default(),
            before_change: BeforeChange::default(),
        }
    }

    /// Checks everything that can be told without connecting, and gives the scope.
    pub(super) fn check(&self) -> Result<Scope, ChangeStreamConfigError> {
        let parsed = match crate::mongo::parse(&self.uri) {
            Ok(parsed) => parsed,
            Err(reason) => return wrong("uri", reason),
        };
        let Some(database) = self.database.clone().or(parsed.default_database) else {
            return wrong(
                "database",
                "no database is named: write database = \"…\", or put it into the uri (mongodb://host:27017/database)",
            );
        };
        if database.is_empty() || database.len() > 63 || database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
            return wrong("database", format!("{database:?} is no name of a MongoDB database"));
        }
        for collection in &self.collections {
            if collection.is_empty() || collection.len() > 255 || collection.contains(['$', '\0']) {
                return wrong("collection", format!("{collection:?} is no name of a MongoDB collection"));
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
    /// Without the connection string, which may hold a password.
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
    fn the_database_is_that_of_the_uri_or_the_one_that_is_named() {
        let mut config = ChangeStreamConfig::new("mongodb://u:p@h:27017/one?replicaSet=rs0");
        assert_eq!(config.check().unwrap().database, "one");
        config.database = Some("two".to_owned());
        assert_eq!(config.check().unwrap().database, "two");
        let none = ChangeStreamConfig::new("mongodb://h").check().unwrap_err();
        assert_eq!(none.key, "database");
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_password() {
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
        assert_eq!(bad(|config| config.operations.clear()), "operations");
        assert!(!format!("{:?}", ChangeStreamConfig::new("mongodb://u:s3cret@h/d")).contains("s3cret"));
    }

    #[test]
    fn the_order_in_which_collections_are_written_is_not_part_of_the_scope() {
        let scope = |names: [&str; 2]| {
            let mut config = ChangeStreamConfig::new("mongodb://h/d");
            config.collections = names.map(str::to_owned).to_vec();
            config.check().unwrap()
        };
        assert_eq!(scope(["a", "b"]), scope(["b", "a"]));
    }
}
