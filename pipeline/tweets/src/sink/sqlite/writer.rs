//! The thread that owns the connection: it commits batches and answers reads, in the order of the requests.
//!
//! It drains all waiting batches into one transaction, so that they share a sync. The transaction succeeds or fails as a whole: after
//! an error each of its callers retries its own batch.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::super::{Batch, Collection, Document, Poison, SinkError, Stored};
use super::engagements::Engagements;

/// A request to the thread, with the channel for its answer.
pub(super) enum Request {
    Store(Arc<Batch>, Answer<Stored>),
    Read(Box<dyn FnOnce(&Connection) + Send>),
    Close(Answer<()>),
}

type Answer<T> = oneshot::Sender<Result<T, SinkError>>;

/// The state of the thread.
pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
    engagements: Engagements,
    /// SQLite's `data_version` at the last transaction. It changes when another connection has committed to the file.
    data_version: i64,
}

impl Writer {
    pub(super) fn new(connection: Connection, path: PathBuf) -> Self {
        Self { connection, path, engagements: Engagements::default(), data_version: 0 }
    }

    /// Runs the thread until a request to close, or until all senders are gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            let mut next = Some(first);
            let mut other = None;
            while let Some(request) = next {
                match request {
                    Request::Store(batch, answer) => group.push((batch, answer)),
                    // Answered after the batches before it are committed.
                    request => {
                        other = Some(request);
                        break;
                    }
                }
                next = requests.try_recv().ok();
            }
            if !group.is_empty() {
                self.commit(&mut group);
            }
            match other {
                Some(Request::Read(read)) => read(&self.connection),
                Some(Request::Close(answer)) => {
                    let closed = self.connection.close();
                    let closed = closed.map_err(|(_, error)| SinkError::new("cannot close the SQLite sink", error));
                    // The caller may have gone; the same applies to all answers.
                    let _ = answer.send(closed);
                    return;
                }
                Some(Request::Store(..)) | None => {}
            }
        }
    }

    /// Commits batches in one transaction, and answers each.
    fn commit(&mut self, group: &mut Vec<(Arc<Batch>, Answer<Stored>)>) {
        match self.write(group.iter().map(|(batch, _)| &**batch)) {
            Ok(stored) => {
                for ((_, answer), stored) in group.drain(..).zip(stored) {
                    let _ = answer.send(Ok(stored));
                }
            }
            Err(error) => {
                // The rolled-back changes are still in the cache.
                self.engagements.clear();
                let error = SinkError::new(format!("cannot write to {}", self.path.display()), error);
                for (_, answer) in group.drain(..) {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Writes batches in one transaction, and returns the outcome of each.
    fn write<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) -> rusqlite::Result<Vec<Stored>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let data_version = transaction.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.data_version != data_version {
            self.data_version = data_version;
            self.engagements.clear();
        }
        let mut all = Vec::new();
        for batch in batches {
            all.push(store(&transaction, &mut self.engagements, batch)?);
        }
        let began = Instant::now();
        self.engagements.write(&transaction)?;
        let merging = began.elapsed();
        let began = Instant::now();
        transaction.commit()?;
        // Each batch waits for the whole transaction.
        for stored in &mut all {
            stored.users_took.iter_mut().for_each(|took| *took += merging + began.elapsed());
            stored.tweets_took.iter_mut().for_each(|took| *took += began.elapsed());
        }
        Ok(all)
    }
}

/// Writes one batch, except the documents of `users_engagements`, which are written once per transaction. A score is merged, and a
/// hashtag counted, only if the insert of its tweet took effect: a batch stored again changes nothing.
fn store(transaction: &Transaction<'_>, engagements: &mut Engagements, batch: &Batch) -> rusqlite::Result<Stored> {
    let mut stored = Stored::default();
    let began = Instant::now();
    {
        let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO tweets(tw_id, doc) VALUES (?1, ?2)")?;
        for (tweet, engagement) in batch.tweets.iter().zip(&batch.engagements) {
            if written(insert.execute((&tweet.id, &tweet.json)), Collection::Tweets, tweet, &mut stored.poison)? {
                stored.tweets += 1;
                stored.engagements += 1;
                engagements.add(transaction, engagement)?;
            }
        }
    }
    took(&mut stored.tweets_took, &batch.tweets, began);
    let began = Instant::now();
    {
        let mut upsert = transaction.prepare_cached(
            "INSERT INTO users(id_str, doc) VALUES (?1, ?2)
             ON CONFLICT(id_str) DO UPDATE SET doc = excluded.doc WHERE doc <> excluded.doc",
        )?;
        for user in &batch.users {
            if written(upsert.execute((&user.id, &user.json)), Collection::Users, user, &mut stored.poison)? {
                stored.users += 1;
            }
        }
    }
    took(&mut stored.users_took, &batch.users, began);
    let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO tagged_tweets(tw_id) VALUES (?1)")?;
    let mut count = transaction.prepare_cached(
        "INSERT INTO hashtags(tag, count) VALUES (?1, 1) ON CONFLICT(tag) DO UPDATE SET count = count + 1",
    )?;
    for (at, tagged) in batch.tagged.iter().enumerate() {
        if insert.execute([&tagged.tweet])? > 0 {
            stored.counted.push(at);
            for tag in &tagged.tags {
                count.execute([tag])?;
            }
        }
    }
    let mut cursor =
        transaction.prepare_cached("INSERT OR REPLACE INTO pipeline_cursors(stream, last_event_id) VALUES (?1, ?2)")?;
    for one in &batch.cursors {
        cursor.execute((&one.stream, &one.last_event_id))?;
    }
    Ok(stored)
}

/// Returns whether a document was written. A document that SQLite will never accept is poison, not an error.
fn written(
    outcome: rusqlite::Result<usize>,
    collection: Collection,
    document: &Document,
    poison: &mut Vec<Poison>,
) -> rusqlite::Result<bool> {
    match outcome {
        Ok(rows) => Ok(rows > 0),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::TooBig) => {
            poison.push(Poison {
                collection: Some(collection),
                id: document.id.clone(),
                document: document.json.clone(),
                reason: error.to_string(),
            });
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Records the duration of a write, unless it had nothing to write.
fn took(times: &mut Vec<Duration>, documents: &[Document], began: Instant) {
    if !documents.is_empty() {
        times.push(began.elapsed());
    }
}
