//! The embedded sink: one SQLite file, written by a thread of its own.
//!
//! | table | key | what else |
//! | --- | --- | --- |
//! | `tweets` | `tw_id` | `doc`: the document as JSON |
//! | `users` | `id_str` | `doc` |
//! | `users_engagements` | `id_str` | `doc` |
//! | `pipeline_cursors` | `stream` | `last_event_id` |
//! | `tagged_tweets` | `tw_id` | nothing: a tweet whose hashtags are counted |
//! | `hashtags` | `tag` | `count` |
//!
//! All batches that wait are committed together, synced before they are confirmed (write-ahead log, `synchronous = FULL`). A batch's
//! cursors, hashtags and scores are in the same transaction as its tweets, so none can be there without the other. Others may read the
//! file at any time.

mod engagements;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Sink, SinkError, Stored};
use writer::{Request, Writer};

/// Says in the file's header that it is one of ours: "HTWT".
const APPLICATION_ID: i32 = 0x4854_5754;
/// The form of the tables. A newer one is refused.
const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = "
CREATE TABLE tweets(tw_id TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE users(id_str TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE users_engagements(id_str TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE pipeline_cursors(stream TEXT PRIMARY KEY, last_event_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tagged_tweets(tw_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE hashtags(tag TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
";

/// How long it waits for another program that writes to the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Batches that are written at a time: what waits is committed with one sync, and a busy user's document is written once for all of them.
const AT_ONCE: usize = 16;

/// The sink.
#[derive(Debug)]
pub struct SqliteSink {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl SqliteSink {
    /// Opens the file at `path`, or makes it, with the directories above. Blocks.
    ///
    /// # Errors
    /// When it cannot be opened, is something else, or was made by a newer version.
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

    /// Asks the thread, which answers in the order of the questions.
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
impl Sink for SqliteSink {
    async fn store(&self, batch: Arc<Batch>) -> Result<Stored, SinkError> {
        self.ask(|answer| Request::Store(batch, answer)).await
    }

    async fn cursor(&self, stream: &str) -> Result<Option<String>, SinkError> {
        let stream = stream.to_owned();
        self.ask(|answer| {
            Request::Read(Box::new(move |connection| {
                // Whoever asked may have gone.
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
            tracing::debug!(%error, "closing the SQLite sink");
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
            .map_err(|error| SinkError::new(format!("cannot make the directory {}", folder.display()), error))?;
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
        // Nothing was ever made in it.
        (0, 0, 0) => {
            let create = format!(
                "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            );
            connection.execute_batch(&create).map_err(|error| trouble("make the tables of", error))?;
            sync_folder(path)?;
            Ok(connection)
        }
        _ => Err(wrong("is an SQLite database, but not one of the tweet pipeline: choose another path".to_owned())),
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // Three or four documents, which are written with one call instead of some for each. Has no effect on a file that is there.
    connection.pragma_update(None, "page_size", 16_384)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // In pages: 64 MiB of log before it is brought into the file, so that pages written often are brought in seldom.
    connection.pragma_update(None, "wal_autocheckpoint", 4_096)?;
    connection.pragma_update(None, "journal_size_limit", 128 << 20)?;
    // In KiB, as it is negative.
    connection.pragma_update(None, "cache_size", -32_768)
}

/// The file's own entry in its directory has to survive a crash as well.
fn sync_folder(path: &Path) -> Result<(), SinkError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| SinkError::new(format!("cannot sync the directory {}", folder.display()), error))
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
