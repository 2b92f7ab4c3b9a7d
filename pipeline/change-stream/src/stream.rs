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
use pipeline_mongodb as mongo;

/// The time that the server holds a request while there is nothing new, and thus the interval at which a quiet stream's token
/// is seen.
const AWAIT: Duration = Duration::from_secs(1);

/// The operations that a server sends even without `showExpandedEvents` (MongoDB 6.0 and later).
const CLASSIC: [&str; 8] = ["insert", "update", "replace", "delete", "drop", "rename", "dropDatabase", "invalidate"];

/// The amount that a stream reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Whole batches, as large as the server sends them.
    Batches,
    /// One change at a time, to find an oversized one.
    OneByOne,
    /// One change at a time without its documents, to pass an oversized one.
    Headers,
}

/// A kind of collection without change streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silent {
    TimeSeries,
    View,
}

/// Whether the server can split large changes.
#[repr(u8)]
enum Splits {
    Unknown,
    Yes,
    No,
}

/// Opens streams on one scope.
pub(super) struct Opener {
    client: Client,
    scope: Scope,
    full_document: FullDocument,
    before_change: BeforeChange,
    splits: AtomicU8,
}

impl Opener {
    /// Creates a client. This may ask the DNS; the client connects when it is first used.
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
            // The version supports splitting but the server rejects it, as behind some proxies.
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
            // Splitting has to be the last stage.
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
        // Unlike resumeAfter, startAfter also continues after an invalidate.
        let mut watch = watch.pipeline(pipeline).max_await_time(AWAIT);
        if let Some(token) = token {
            // Without a token the stream would start from now: a silent gap.
            watch = watch
                .start_after(token.to_driver().ok_or_else(|| Error::custom("the stored token is invalid".to_owned()))?);
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

    /// Whether the server supports `$changeStreamSplitLargeEvent` (6.0.9, 7.0 and later).
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

    /// The first watched collection that cannot have a change stream, with its kind. `None` if there is none, if the whole database is
    /// watched, or if the user may not list collections.
    pub(super) async fn without_stream(&self) -> Option<(String, Silent)> {
        if self.scope.collections.is_empty() {
            return None;
        }
        let list = doc! {
            "listCollections": 1,
            "filter": { "name": { "$in": &self.scope.collections }, "type": { "$in": ["timeseries", "view"] } },
            "nameOnly": true,
            "authorizedCollections": true,
        };
        let listed = self.client.database(&self.scope.database).run_command(list).await.ok()?;
        let first = listed.get_document("cursor").ok()?.get_array("firstBatch").ok()?.first()?.as_document()?;
        let kind = if first.get_str("type").ok()? == "timeseries" { Silent::TimeSeries } else { Silent::View };
        Some((first.get_str("name").ok()?.to_owned(), kind))
    }

    /// The time of the oplog's oldest entry, in seconds since 1970; `None` if the oplog cannot be read.
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
    /// Whether changes with this operation are published.
    pub(super) fn publishes(&self, operation: &str) -> bool {
        self.operations.iter().any(|wanted| wanted == operation || wanted == "*")
    }

    /// The filter for the server: the changes to publish, and those that end the stream or empty a collection, which become gaps.
    fn pipeline(&self) -> Vec<Document> {
        let mut conditions = Vec::new();
        if !self.operations.iter().any(|operation| operation == "*") {
            let mut operations: Vec<&str> = self.operations.iter().map(String::as_str).collect();
            operations.extend(["drop", "rename", "dropDatabase", "invalidate"]);
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
    fn changes_that_end_a_stream_pass_every_filter() {
        let text = |scope: Scope| format!("{:?}", scope.pipeline());
        for collections in [&[][..], &["a"], &["a", "b"]] {
            let pipeline = text(scope(collections, &["insert"]));
            assert!(pipeline.contains("invalidate") && pipeline.contains("dropDatabase"), "{pipeline}");
            assert!(pipeline.contains("drop\"") && pipeline.contains("rename"), "{pipeline}");
        }
        assert!(scope(&["a"], &["*"]).pipeline().is_empty());
        assert!(text(scope(&["a", "b"], &["*"])).contains("to.coll"));
        assert!(scope(&[], &["*"]).publishes("whatever comes"));
        assert!(!scope(&[], &["insert"]).publishes("delete"));
    }

    #[test]
    fn the_version_tells_whether_a_server_can_split() {
        for (version, expected) in
            [((6, 0, 5), false), ((6, 0, 9), true), ((6, 3, 0), true), ((5, 0, 30), false), ((8, 0, 0), true)]
        {
            assert_eq!(can_split(version), expected, "{version:?}");
        }
    }
}
