//! Unordered bulk writes: sent in commands of bounded size, with each error classified individually.

use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use mongodb::Database;
use mongodb::error::ErrorKind;

use super::failure;
use crate::sink::{Collection, Poison, SinkError};

/// The most statements per command, and the approximate limit in bytes: MongoDB accepts 100,000 and 48 MB.
const CHUNK: (usize, usize) = (1000, 24 << 20);

/// The time limit for a majority to confirm, in milliseconds; then the attempt counts as failed.
const MAJORITY_MS: i32 = 30_000;

/// Transient errors: HostUnreachable, HostNotFound, LockTimeout, MaxTimeMSExpired, WriteConcernFailed, NetworkTimeout,
/// ShutdownInProgress, WriteConflict, PrimarySteppedDown, ExceededTimeLimit, SnapshotUnavailable, NoSuchTransaction,
/// SocketException, NotWritablePrimary, InterruptedAtShutdown, Interrupted, InterruptedDueToReplStateChange,
/// NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary, OutOfDiskSpace, Unauthorized.
const PASSING: [i32; 21] =
    [6, 7, 24, 50, 64, 89, 91, 112, 189, 262, 246, 251, 9001, 10107, 11600, 11601, 11602, 13435, 13436, 14031, 13];

const DUPLICATE_KEY: i32 = 11000;

/// One upsert.
pub(super) struct Statement {
    /// The statement as written in an `update` command.
    pub(super) statement: Document,
    /// The `_id`.
    pub(super) id: String,
    /// The document for the dead letters if the statement is refused.
    pub(super) json: String,
}

/// The outcome of the statements.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The number of new documents.
    pub(super) upserted: u64,
    /// Their ids.
    pub(super) new: Vec<String>,
    /// The number of existing documents that changed.
    pub(super) modified: u64,
    /// The duration of each command.
    pub(super) took: Vec<Duration>,
    /// The id, document and reason of each permanent refusal.
    refused: Vec<(String, String, String)>,
}

impl Written {
    /// Adds the refused documents to the dead letters.
    pub(super) fn poison_into(&self, collection: Option<Collection>, poison: &mut Vec<Poison>) {
        poison.extend(self.refused.iter().map(|(id, document, reason)| Poison {
            collection,
            id: id.clone(),
            document: document.clone(),
            reason: reason.clone(),
        }));
    }
}

/// Executes all statements, in any order; completes when a majority has journaled them.
///
/// # Errors
/// If a later attempt may succeed. Any of the statements may have been executed.
pub(super) async fn write(
    database: &Database,
    collection: &str,
    statements: Vec<Statement>,
) -> Result<Written, SinkError> {
    let mut written = Written::default();
    // Chunks still to be sent; one that is refused as a whole is split in half.
    let mut chunks = chunks(statements);
    chunks.reverse();
    while let Some(mut chunk) = chunks.pop() {
        let began = Instant::now();
        let command = doc! {
            "update": collection,
            "updates": chunk.iter().map(|statement| Bson::Document(statement.statement.clone())).collect::<Vec<_>>(),
            "ordered": false,
            "writeConcern": { "w": "majority", "j": true, "wtimeout": MAJORITY_MS },
        };
        match database.run_command(command).await {
            Ok(answer) => {
                written.took.push(began.elapsed());
                look_at(&answer, &chunk, collection, &mut written)?;
            }
            Err(error) => {
                let refused = matches!(&*error.kind, ErrorKind::Command(command) if !PASSING.contains(&command.code))
                    || matches!(&*error.kind, ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_));
                if !refused {
                    return Err(failure(&format!("write to {collection}"), &error));
                }
                if chunk.len() > 1 {
                    chunks.push(chunk.split_off(chunk.len() / 2));
                    chunks.push(chunk);
                } else if let Some(Statement { id, json, .. }) = chunk.pop() {
                    written.refused.push((id, json, pipeline_mongodb::brief(&error)));
                }
            }
        }
    }
    Ok(written)
}

fn chunks(statements: Vec<Statement>) -> Vec<Vec<Statement>> {
    let mut chunks = Vec::new();
    let mut chunk: Vec<Statement> = Vec::new();
    let mut bytes = 0;
    for statement in statements {
        // The text is about as long as its BSON.
        let length = statement.json.len() + 256;
        if !chunk.is_empty() && (chunk.len() >= CHUNK.0 || bytes + length > CHUNK.1) {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += length;
        chunk.push(statement);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

fn look_at(answer: &Document, chunk: &[Statement], collection: &str, written: &mut Written) -> Result<(), SinkError> {
    let fail =
        |what: String| Err(SinkError { reason: format!("MongoDB: cannot write to {collection}: {what}"), cause: None });
    if let Ok(error) = answer.get_document("writeConcernError") {
        let text = error.get_str("errmsg").unwrap_or("no majority has it");
        return fail(format!("not yet confirmed by a majority: {text}"));
    }
    let documents = |key: &str| {
        let list = answer.get_array(key).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Bson::as_document).collect::<Vec<_>>()
    };
    for error in documents("writeErrors") {
        let code = error.get_i32("code").unwrap_or_default();
        let text = format!("error {code}: {}", error.get_str("errmsg").unwrap_or_default());
        // Another writer inserted this `_id` first; the next attempt finds it.
        let race = code == DUPLICATE_KEY
            && error.get_document("keyPattern").is_ok_and(|key| key.len() == 1 && key.contains_key("_id"));
        if race || PASSING.contains(&code) {
            return fail(text);
        }
        let index = error.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| chunk.get(index)) {
            Some(Statement { id, json, .. }) => written.refused.push((id.clone(), json.clone(), text)),
            None => return fail(text),
        }
    }
    let count = |key: &str| match answer.get(key) {
        Some(Bson::Int32(count)) => u64::try_from(*count).unwrap_or(0),
        Some(Bson::Int64(count)) => u64::try_from(*count).unwrap_or(0),
        _ => 0,
    };
    let upserted = documents("upserted");
    written.modified += count("nModified");
    written.upserted += u64::try_from(upserted.len()).unwrap_or(u64::MAX);
    let new = upserted.iter().filter_map(|upserted| upserted.get_str("_id").ok().map(str::to_owned));
    written.new.extend(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(id: &str, bytes: usize) -> Statement {
        Statement { statement: doc! {}, id: id.to_owned(), json: "x".repeat(bytes) }
    }

    #[test]
    fn commands_are_bounded_in_statements_and_bytes() {
        let lengths = |statements| chunks(statements).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths((0..2500).map(|_| statement("a", 1)).collect()), [1000, 1000, 500]);
        assert_eq!(lengths((0..3).map(|_| statement("a", 15 << 20)).collect()), [1, 1, 1]);
        assert_eq!(lengths(Vec::new()), [0; 0]);
    }

    #[test]
    fn refused_statements_are_named_and_transient_errors_are_retried() {
        let chunk = [statement("a", 1), statement("b", 2)];
        let look = |error: Document| {
            let mut written = Written::default();
            let answer =
                doc! { "ok": 1, "nModified": 1, "upserted": [{ "index": 0, "_id": "a" }], "writeErrors": [error] };
            look_at(&answer, &chunk, "tweets", &mut written).map(|()| written)
        };
        let written = look(doc! { "index": 1, "code": 121, "errmsg": "Document failed validation" }).unwrap();
        let mut poison = Vec::new();
        written.poison_into(Some(Collection::Tweets), &mut poison);
        assert_eq!((poison[0].id.as_str(), poison[0].document.as_str()), ("b", "xx"));
        assert!(poison[0].reason.contains("failed validation"));
        assert_eq!((written.upserted, written.modified, written.new), (1, 1, vec!["a".to_owned()]));
        assert!(look(doc! { "index": 1, "code": 11000, "keyPattern": { "_id": 1 }, "errmsg": "E11000" }).is_err());
        assert!(look(doc! { "index": 1, "code": 11000, "keyPattern": { "mail": 1 }, "errmsg": "E11000" }).is_ok());
        assert!(look(doc! { "index": 1, "code": 112, "errmsg": "WriteConflict" }).is_err());
        let late = doc! { "ok": 1, "writeConcernError": { "errmsg": "waiting for replication timed out" } };
        assert!(look_at(&late, &chunk, "tweets", &mut Written::default()).is_err());
    }
}
