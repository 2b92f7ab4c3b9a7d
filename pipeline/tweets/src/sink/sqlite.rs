//! The embedded sink: one SQLite file, written by its own thread.
//!
//! | table | key | other columns |
//! | --- | --- | --- |
//! | `tweets` | `tw_id` | `doc`: the document as JSON |
//! | `users` | `id_str` | `doc` |
//! | `users_engagements` | `id_str` | `doc` |
//! | `pipeline_cursors` | `stream` | `last_event_id` |
//! | `tagged_tweets` | `tw_id` | none: a tweet whose hashtags are counted |
//! | `hashtags` | `tag` | `count` |
//!
//! All waiting batches are committed together, synced before they are confirmed (write-ahead log, `synchronous = FULL`). A
//! batch's cursors, hashtags and scores are in the same transaction as its tweets, so none exists without the others. Other
//! programs may read the file at any time.

mod engagements;
mod plugin;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::{mpsc, oneshot};

use super::{Batch, SinkError, Stored, TweetSink};
pub use plugin::PLUGIN;
use writer::{Request, Writer};

/// Marks the file as ours in its header: "HTWT".
const APPLICATION_ID: i32 = 0x4854_5754;
/// The version of the table layout. Files of any other version are refused.
const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = "
CREATE TABLE tweets(tw_id TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE users(id_str TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE users_engagements(id_str TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE pipeline_cursors(stream TEXT PRIMARY KEY, last_event_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tagged_tweets(tw_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE hashtags(tag TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
";

/// The time to wait for another program that is writing to the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The most concurrent calls of `store`, and so the most batches in one commit. They share one sync, and a busy user's document is
/// written once for all of them.
const AT_ONCE: usize = 16;

/// The sink.
#[derive(Debug)]
pub struct SqliteSink {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl SqliteSink {
    /// Opens the file at `path`, creating it and its parent directories if missing. Blocks.
    ///
    /// # Errors
    /// If it cannot be opened, is not a file of this sink, or was made by a newer version.
    pub fn open(path: &Path) -> Result<Self, SinkError> {
        let connection = open(path)?;
        let (requests, received) = mpsc::channel(AT_ONCE);
        let writer = Writer::new(connection, path.to_owned());
        let thread = std::thread::Builder::new()
            .name("tweets-sqlite".to_owned())
            .spawn(move || writer.run(received))
            .map_err(|error| SinkError::new("the thread of the SQLite sink cannot be started", error))?;
        Ok(Self { path: path.to_owned(), requests, thread: Mutex::new(Some(thread)) })
    }

    /// Sends the thread a request; requests are answered in order.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, SinkError>>) -> Request,
    ) -> Result<T, SinkError> {
        let (answer, answered) = oneshot::channel();
        let gone = || SinkError { reason: format!("the SQLite sink {} is closed", self.path.display()), cause: None };
        self.requests.send(request(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl TweetSink for SqliteSink {
    async fn store(&self, batch: Arc<Batch>) -> Result<Stored, SinkError> {
        self.ask(|answer| Request::Store(batch, answer)).await
    }

    async fn cursor(&self, stream: &str) -> Result<Option<String>, SinkError> {
        let stream = stream.to_owned();
        self.ask(|answer| {
            Request::Read(Box::new(move |connection| {
                // The caller may have gone.
                let _ = answer.send(cursor(connection, &stream));
            }))
        })
        .await
    }

    async fn hashtags(&self) -> Result<HashMap<String, u64>, SinkError> {
        self.ask(|answer| {
            Request::Read(Box::new(move |connection| {
                let _ = answer.send(hashtags(connection));
            }))
        })
        .await
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn close(&self) {
        let closed = self.ask(Request::Close).await;
        if let Err(error) = closed {
            tracing::debug!(%error, "closing the SQLite sink failed");
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ended = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn open(path: &Path) -> Result<Connection, SinkError> {
    let trouble =
        |what: &str, error: rusqlite::Error| SinkError::new(format!("cannot {what} {}", path.display()), error);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| SinkError::new(format!("cannot create the directory {}", folder.display()), error))?;
    }
    let connection = Connection::open(path).map_err(|error| trouble("open", error))?;
    prepare(&connection).map_err(|error| trouble("use", error))?;
    let wrong = |reason: String| SinkError { reason: format!("{} {reason}", path.display()), cause: None };
    let number = |pragma: &str| {
        connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(|error| trouble("read", error))
    };
    match (number("application_id")?, number("user_version")?, number("schema_version")?) {
        (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(connection),
        (APPLICATION_ID, version, _) => Err(wrong(format!(
            "was made by a newer version of Herald (format {version}, this one has {SCHEMA_VERSION})"
        ))),
        // The file is new and empty.
        (0, 0, 0) => {
            let create = format!(
                "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            );
            connection.execute_batch(&create).map_err(|error| trouble("create the tables of", error))?;
            // The name of a new file must survive a crash too.
            durable_files::sync_parent(&durable_files::SystemFiles, path)
                .map_err(|error| SinkError::new(format!("cannot make {} durable", path.display()), error))?;
            Ok(connection)
        }
        _ => Err(wrong("is an SQLite database, but not one of the tweet pipeline: choose another path".to_owned())),
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // A tweet's document is larger than SQLite's default page of 4 KiB and would spill into overflow pages. This page holds three or
    // four of them. The setting has no effect on an existing file.
    connection.pragma_update(None, "page_size", 16_384)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // In pages, which makes 64 MiB. A page that changes often is written to the log each time but copied into the file once per
    // checkpoint, so rare checkpoints save writes.
    connection.pragma_update(None, "wal_autocheckpoint", 4_096)?;
    connection.pragma_update(None, "journal_size_limit", 128 << 20)?;
    // A negative value is in KiB.
    connection.pragma_update(None, "cache_size", -32_768)
}

fn cursor(connection: &Connection, stream: &str) -> Result<Option<String>, SinkError> {
    connection
        .query_row("SELECT last_event_id FROM pipeline_cursors WHERE stream = ?1", [stream], |row| row.get(0))
        .optional()
        .map_err(|error| SinkError::new("cannot read a cursor", error))
}

fn hashtags(connection: &Connection) -> Result<HashMap<String, u64>, SinkError> {
    let read = || {
        let mut select = connection.prepare_cached("SELECT tag, count FROM hashtags")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
        rows.collect::<rusqlite::Result<HashMap<String, u64>>>()
    };
    read().map_err(|error| SinkError::new("cannot read the hashtags", error))
}

#[cfg(test)]
mod tests;
