//! Collects scored tweets into batches, and retries each until it is stored.
//!
//! # Invariant
//!
//! A batch carries the cursors that were current when it was closed. Its own tickets finish only after it is stored, so these
//! cursors cover earlier batches only. The sink may therefore store them in any order with the rest of the batch, and a kill at any
//! point repeats tweets but loses none.

use std::sync::Arc;
use std::time::Duration;

use broker_core::{Backoff, error_chain};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::dead_letters::DeadLetters;
use super::hashtag_counts::HashtagCounts;
use super::progress::{Progress, Ticket};
use super::statistics::Statistics;
use crate::sink::{Batch, Document, Poison, Stored, StreamCursor, TaggedTweet, TweetSink, UserEngagement};

/// The document bytes at which a batch is stored even if it has room for more tweets.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// The first and the longest backoff after the sink fails.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// An input of the batcher.
#[derive(Debug)]
pub(super) enum Collected {
    Tweet(Box<ScoredTweet>),
    /// Not a tweet: goes to the dead letters.
    Rejected(Poison, Ticket),
}

/// A tweet with all the documents stored for it.
#[derive(Debug)]
pub(super) struct ScoredTweet {
    pub(super) document: Document,
    pub(super) user: Document,
    pub(super) engagement: UserEngagement,
    pub(super) tagged: Option<TaggedTweet>,
    pub(super) ticket: Ticket,
}

/// A stream and its progress.
#[derive(Debug)]
pub(super) struct Position {
    /// The name under which its cursor is stored.
    pub(super) stream: String,
    pub(super) progress: Arc<Progress>,
}

/// The collaborators of the batcher.
pub(super) struct Batcher {
    pub(super) sink: Arc<dyn TweetSink>,
    pub(super) dead_letters: DeadLetters,
    pub(super) statistics: Arc<Statistics>,
    pub(super) hashtags: Arc<HashtagCounts>,
    pub(super) positions: Vec<Position>,
    pub(super) batch_size: usize,
    pub(super) flush: Duration,
    /// Once cancelled, a batch that fails its first attempt is given up and read again after the next start.
    pub(super) stop: CancellationToken,
}

/// A batch and the tickets that finish with it.
#[derive(Default)]
struct Pending {
    batch: Batch,
    rejected: Vec<Poison>,
    tickets: Vec<Ticket>,
    bytes: usize,
}

impl Batcher {
    /// Stores all input until it ends, then the cursors of the last batch.
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

    /// The next batch, possibly empty, and whether more can follow. A batch closes at its limit of tweets or bytes,
    /// or at its maximum age.
    async fn collect(&self, collected: &mut mpsc::Receiver<Collected>) -> (Pending, bool) {
        let mut pending = Pending::default();
        let mut arrived = Vec::with_capacity(self.batch_size.min(1024));
        // The age of a batch counts from its first tweet; without one, only cursors may need writing.
        let mut deadline = Instant::now() + self.flush;
        while pending.tickets.len() < self.batch_size && pending.bytes < MAX_BATCH_BYTES {
            // Received in small portions, so that a batch of very long tweets closes in time.
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

    /// The cursors that differ from `known`. Read when a batch is made, so they cover earlier batches only.
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

    /// Retries until the batch is stored. `None`: it failed once and the pipeline is stopping.
    async fn store_at_last(&self, batch: Arc<Batch>) -> Option<Stored> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
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
                        // The failed attempt may have counted some of them.
                        self.hashtags.reload(&*self.sink).await;
                    }
                    return Some(stored);
                }
                Err(error) => {
                    let tweets = batch.tweets.len();
                    if self.stop.is_cancelled() {
                        tracing::warn!(tweets, error = %error_chain(&error), "the sink failed during shutdown: these tweets are read again after the next start");
                        return None;
                    }
                    tracing::warn!(tweets, error = %error_chain(&error), "the sink failed, retrying; the feed waits");
                }
            }
            failed = true;
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
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

/// A panic in a task is a bug and must propagate.
fn pass_on_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

#[cfg(test)]
mod tests;
