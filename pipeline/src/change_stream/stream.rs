//! Opens change streams.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::Client;
use mongodb::change_stream::ChangeStream;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{FullDocumentBeforeChangeType, FullDocumentType};

use super::config::{BeforeChange, ChangeStreamConfig, FullDocument, Scope};
use super::position::Token;
use super::split;
use crate::mongo;

/// How long the server keeps a request for more open when there is nothing new: how often a quiet stream's token is seen.
const AWAIT: Duration = Duration::from_secs(1);

/// The operations that older servers send without being asked for the others.
const CLASSIC: [&str; 8] = ["insert", "update", "replace", "delete", "drop", "rename", "dropDatabase", "invalidate"];

/// What a stream is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As many changes at a time as the server likes to send.
    Batches,
    /// One at a time, to find the one that is too large.
    OneByOne,
    /// One at a time and without documents, to get past it.
    Headers,
}

/// Whether the server can split large changes.
#[repr(u8)]
enum Splits {
    Unknown,
    Yes,
    No,
}

/// A client and what to watch with it.
pub(super) struct Opener {
    client: Client,
    scope: Scope,
    full_document: FullDocument,
    before_change: BeforeChange,
    splits: AtomicU8,
}

impl Opener {
    /// Reads the connection string, which may ask the DNS, and makes a client, which connects when it is needed.
    pub(super) async fn new(config: &ChangeStreamConfig, scope: Scope) -> Result<Self, Error> {
        Ok(Self {
            client: mongo::client(&config.uri).await?,
            scope,
            full_document: config.full_document,
            before_change: config.before_change,
            splits: AtomicU8::new(Splits::Unknown as u8),
        })
    }

    /// Opens a stream after `token`, or from now.
    pub(super) async fn open(&self, token: Option<&Token>, pace: Pace) -> Result<ChangeStream<RawDocumentBuf>, Error> {
        let splits = pace != Pace::Headers && self.splits().await?;
        match self.watch(token, pace, splits).await {
            // Its version promised it: a proxy in between, or a feature that is off.
            Err(error) if splits && is_unknown_stage(&error) => {
                self.splits.store(Splits::No as u8, Ordering::Relaxed);
                self.watch(token, pace, false).await
            }
            other => other,
        }
    }

    async fn watch(
        &self,
        token: Option<&Token>,
        pace: Pace,
        splits: bool,
    ) -> Result<ChangeStream<RawDocumentBuf>, Error> {
        let database = self.client.database(&self.scope.database);
        let mut pipeline = self.scope.pipeline();
        match pace {
            Pace::Headers => pipeline.push(doc! { "$project": { "operationType": 1, "ns": 1, "clusterTime": 1 } }),
            // It has to be the last stage.
            _ if splits => pipeline.push(split::stage()),
            _ => {}
        }
        let collection;
        let watch = match self.scope.collections.as_slice() {
            [only] => {
                collection = database.collection::<Document>(only);
                collection.watch()
            }
            _ => database.watch(),
        };
        // startAfter goes on after an invalidate as well, where resumeAfter refuses.
        let mut watch = watch.pipeline(pipeline).max_await_time(AWAIT);
        if let Some(token) = token {
            // Without it the stream would begin from now, and nobody would know.
            watch = watch.start_after(token.to_driver().ok_or_else(|| Error::custom("the token is none".to_owned()))?);
        }
        if pace != Pace::Batches {
            watch = watch.batch_size(1);
        }
        if self.scope.operations.iter().any(|operation| !CLASSIC.contains(&operation.as_str())) {
            watch = watch.show_expanded_events(true);
        }
        if pace != Pace::Headers {
            watch = match self.full_document {
                FullDocument::Lookup => watch.full_document(FullDocumentType::UpdateLookup),
                FullDocument::WhenAvailable => watch.full_document(FullDocumentType::WhenAvailable),
                FullDocument::Required => watch.full_document(FullDocumentType::Required),
                FullDocument::Off => watch,
            };
            watch = match self.before_change {
                BeforeChange::WhenAvailable => {
                    watch.full_document_before_change(FullDocumentBeforeChangeType::WhenAvailable)
                }
                BeforeChange::Required => watch.full_document_before_change(FullDocumentBeforeChangeType::Required),
                BeforeChange::Off => watch,
            };
        }
        Ok(watch.await?.with_type::<RawDocumentBuf>())
    }

    /// Whether the server knows `$changeStreamSplitLargeEvent`: from 6.0.9 and 7.0 on.
    async fn splits(&self) -> Result<bool, Error> {
        let known = self.splits.load(Ordering::Relaxed);
        if known != Splits::Unknown as u8 {
            return Ok(known == Splits::Yes as u8);
        }
        let info = self.client.database("admin").run_command(doc! { "buildInfo": 1 }).await?;
        let part = |index: usize| {
            let part: &bson::Bson = info.get_array("versionArray").ok()?.get(index)?;
            part.as_i32().or_else(|| part.as_i64().and_then(|part| i32::try_from(part).ok()))
        };
        let version = (part(0).unwrap_or(0), part(1).unwrap_or(0), part(2).unwrap_or(0));
        let splits = can_split(version);
        self.splits.store(if splits { Splits::Yes } else { Splits::No } as u8, Ordering::Relaxed);
        tracing::debug!(?version, splits, "asked MongoDB for its version");
        Ok(splits)
    }

    /// When the oldest change happened that the server still has, in seconds since 1970; `None` where that is not to be seen.
    pub(super) async fn oldest_change(&self) -> Option<u32> {
        let oplog = self.client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).projection(doc! { "ts": 1 }).await;
        first.ok()??.get_timestamp("ts").ok().map(|ts| ts.time)
    }
}

fn can_split(version: (i32, i32, i32)) -> bool {
    version >= (7, 0, 0) || (version.0 == 6 && version >= (6, 0, 9))
}

fn is_unknown_stage(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(command) if command.code == 40324)
}

impl Scope {
    /// Whether changes of this kind are published.
    pub(super) fn publishes(&self, operation: &str) -> bool {
        self.operations.iter().any(|wanted| wanted == operation || wanted == "*")
    }

    /// What of the stream the server sends: what is published, and what ends the stream or empties a collection.
    fn pipeline(&self) -> Vec<Document> {
        let mut conditions = Vec::new();
        if !self.operations.iter().any(|operation| operation == "*") {
            let mut operations: Vec<&str> = self.operations.iter().map(String::as_str).collect();
            operations.extend(["dropDatabase", "invalidate"]);
            if !self.collections.is_empty() {
                operations.extend(["drop", "rename"]);
            }
            conditions.push(doc! { "operationType": { "$in": operations } });
        }
        if let [_, _, ..] = self.collections.as_slice() {
            conditions.push(doc! { "$or": [
                { "ns.coll": { "$in": &self.collections } },
                { "to.coll": { "$in": &self.collections } },
                { "operationType": { "$in": ["dropDatabase", "invalidate"] } },
            ] });
        }
        if conditions.is_empty() { Vec::new() } else { vec![doc! { "$match": { "$and": conditions } }] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(collections: &[&str], operations: &[&str]) -> Scope {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Scope { database: "d".to_owned(), collections: names(collections), operations: names(operations) }
    }

    #[test]
    fn what_ends_a_stream_passes_every_filter() {
        let text = |scope: Scope| format!("{:?}", scope.pipeline());
        for collections in [&[][..], &["a"], &["a", "b"]] {
            let pipeline = text(scope(collections, &["insert"]));
            assert!(pipeline.contains("invalidate") && pipeline.contains("dropDatabase"), "{pipeline}");
            assert_eq!(pipeline.contains("rename"), !collections.is_empty(), "{pipeline}");
        }
        assert!(scope(&["a"], &["*"]).pipeline().is_empty());
        assert!(text(scope(&["a", "b"], &["*"])).contains("to.coll"));
        assert!(scope(&[], &["*"]).publishes("whatever comes"));
        assert!(!scope(&[], &["insert"]).publishes("delete"));
    }

    #[test]
    fn servers_that_can_split_are_known_by_their_version() {
        for (version, expected) in
            [((6, 0, 5), false), ((6, 0, 9), true), ((6, 3, 0), true), ((5, 0, 30), false), ((8, 0, 0), true)]
        {
            assert_eq!(can_split(version), expected, "{version:?}");
        }
    }
}
