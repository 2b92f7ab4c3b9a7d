//! Collects scored tweets into batches and sees to it that each is stored, whatever happens to the sink.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::dead_letters::DeadLetters;
use super::hashtags::Hashtags;
use super::progress::{Progress, Ticket};
use super::statistics::Statistics;
use crate::sink::{Batch, Document, Poison, Sink, Stored, StreamCursor, TaggedTweet, UserEngagement};

/// A batch that has so many bytes of documents is stored although it could have more tweets.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// How long a sink that failed is left alone: at first, and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What arrives at the batcher.
#[derive(Debug)]
pub(super) enum Collected {
    Tweet(Box<ScoredTweet>),
    /// No tweet at all: it goes to the dead letters.
    Rejected(Poison, Ticket),
}

/// A tweet with everything that is stored of it.
#[derive(Debug)]
pub(super) struct ScoredTweet {
    pub(super) document: Document,
    pub(super) user: Document,
    pub(super) engagement: UserEngagement,
    pub(super) tagged: Option<TaggedTweet>,
    pub(super) ticket: Ticket,
}

/// A stream and how far it is.
#[derive(Debug)]
pub(super) struct Position {
    /// The name under which its cursor is stored.
    pub(super) stream: String,
    pub(super) progress: Arc<Progress>,
}

/// What the batcher works with.
pub(super) struct Batcher {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) dead_letters: DeadLetters,
    pub(super) statistics: Arc<Statistics>,
    pub(super) hashtags: Arc<Hashtags>,
    pub(super) positions: Vec<Position>,
    pub(super) batch_size: usize,
    pub(super) flush: Duration,
    /// Once this is cancelled, what cannot be stored at the first attempt is given up. It is read again after the next start.
    pub(super) stop: CancellationToken,
}

/// A batch and what finishes with it.
#[derive(Default)]
struct Pending {
    batch: Batch,
    rejected: Vec<Poison>,
    tickets: Vec<Ticket>,
    bytes: usize,
}

impl Batcher {
    /// Stores what arrives until nothing more does, then the cursors of what was stored last.
    pub(super) async fn run(self, mut collected: mpsc::Receiver<Collected>) {
        let this = Arc::new(self);
        let permits = Arc::new(Semaphore::new(this.sink.at_once().max(1)));
        let mut stores = JoinSet::new();
        let mut written = this.cursors(&[]);
        loop {
            let (mut pending, more) = this.collect(&mut collected).await;
            pending.batch.cursors = this.cursors(&written);
            if !pending.is_empty() {
                for cursor in &pending.batch.cursors {
                    written.retain(|one| one.stream != cursor.stream);
                    written.push(cursor.clone());
                }
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
                let this = Arc::clone(&this);
                stores.spawn(async move {
                    this.store(pending).await;
                    drop(permit);
                });
            }
            while let Some(stored) = stores.try_join_next() {
                pass_on_panic(stored);
            }
            if !more {
                break;
            }
        }
        while let Some(stored) = stores.join_next().await {
            pass_on_panic(stored);
        }
        let last = Batch { cursors: this.cursors(&written), ..Batch::default() };
        if !last.is_empty() {
            this.store(Pending { batch: last, ..Pending::default() }).await;
        }
        this.sink.close().await;
    }

    /// The next batch, perhaps an empty one, and whether there can be more. A batch is full by the number of tweets or by their bytes,
    /// or it is as old as may be.
    async fn collect(&self, collected: &mut mpsc::Receiver<Collected>) -> (Pending, bool) {
        let mut pending = Pending::default();
        let mut arrived = Vec::with_capacity(self.batch_size.min(1024));
        // The time of a batch begins with its first tweet; without one, only cursors may have to be written.
        let mut deadline = Instant::now() + self.flush;
        while pending.tickets.len() < self.batch_size && pending.bytes < MAX_BATCH_BYTES {
            // Not all at once, so that a batch of very long tweets ends in time.
            let room = (self.batch_size - pending.tickets.len()).min(64);
            match timeout_at(deadline, collected.recv_many(&mut arrived, room)).await {
                Ok(0) => return (pending, false),
                Ok(_) => {
                    if pending.tickets.is_empty() {
                        deadline = Instant::now() + self.flush;
                    }
                    arrived.drain(..).for_each(|one| pending.add(one));
                }
                Err(_) => break,
            }
        }
        (pending, true)
    }

    /// The cursors that are not as in `known`. Taken when a batch is made, so they cover earlier batches only.
    fn cursors(&self, known: &[StreamCursor]) -> Vec<StreamCursor> {
        let cursor = |position: &Position| StreamCursor {
            stream: position.stream.clone(),
            last_event_id: position.progress.cursor().to_string(),
        };
        let cursors = self.positions.iter().map(cursor);
        cursors.filter(|cursor| !cursor.last_event_id.is_empty() && !known.contains(cursor)).collect()
    }

    async fn store(&self, pending: Pending) {
        let Pending { batch, mut rejected, tickets, .. } = pending;
        if !batch.is_empty() {
            let Some(stored) = self.store_at_last(Arc::new(batch)).await else { return };
            rejected.extend(stored.poison);
        }
        if self.dead_letters.publish(rejected, &self.stop).await {
            tickets.into_iter().for_each(Ticket::finish);
        }
    }

    /// Tries until the batch is stored; `None`: told to stop meanwhile.
    async fn store_at_last(&self, batch: Arc<Batch>) -> Option<Stored> {
        let mut pause = PAUSE.0;
        let mut failed = false;
        loop {
            match self.sink.store(Arc::clone(&batch)).await {
                Ok(stored) => {
                    if failed {
                        tracing::info!("the sink stores again");
                    }
                    self.statistics.stored(&stored);
                    self.hashtags.count(&batch.tagged, &stored.counted);
                    if failed {
                        // The failed attempt may have counted some.
                        self.hashtags.reload(&*self.sink).await;
                    }
                    return Some(stored);
                }
                Err(error) => {
                    let tweets = batch.tweets.len();
                    if self.stop.is_cancelled() {
                        tracing::warn!(tweets, error = %chain(&error), "the sink failed, and there is no time to try again: after the next start these are read again");
                        return None;
                    }
                    tracing::warn!(tweets, error = %chain(&error), "the sink failed; trying again, and meanwhile the feed waits");
                }
            }
            failed = true;
            let spread = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(spread) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.batch.is_empty()
    }

    fn add(&mut self, collected: Collected) {
        match collected {
            Collected::Tweet(scored) => {
                let ScoredTweet { document, user, engagement, tagged, ticket } = *scored;
                self.bytes += document.json.len() + user.json.len();
                self.batch.tweets.push(document);
                self.batch.users.push(user);
                self.batch.engagements.push(engagement);
                self.batch.tagged.extend(tagged);
                self.tickets.push(ticket);
            }
            Collected::Rejected(poison, ticket) => {
                self.bytes += poison.document.len();
                self.rejected.push(poison);
                self.tickets.push(ticket);
            }
        }
    }
}

/// A panic in a task is a mistake of ours, and must not be lost.
fn pass_on_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
