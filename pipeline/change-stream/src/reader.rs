//! Reads one stream after another, and commits their changes.
//!
//! # Getting past a change that is too large
//!
//! MongoDB answers with an error if a change does not fit into 16 MiB, and the error does not say which change it is. The server
//! fills its replies ahead of the reader, so the change may lie anywhere after the committed position. The reader therefore narrows
//! it down, committing as it goes:
//!
//! ```text
//!   Batches ── too large ──► OneByOne ── too large: it is next ──► Headers: reads its token alone, publishes a gap,
//!      ▲                         │                                    │     commits the token
//!      └── caught up, or 10,000 ─┴────────────────────────────────────┘
//! ```
//!
//! # Invariants
//!
//! - `position` is always the committed one. A stream is opened after it, so events of a batch that was not committed are read again.
//! - A stream without a position commits the place where it begins before it reads. Otherwise a crash before the first change
//!   would begin again later, and the changes in between would be lost without a gap event.
//! - A commit never falls between the fragments of one change: the token of a fragment cannot be resumed from.

mod take;

use std::collections::HashSet;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use broker_core::Backoff;
use broker_core::source::SourceError;
use bson::RawDocumentBuf;
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use pipeline_source::mapping::{PointerWatch, Skipped};
use pipeline_source::publishing::Publishing;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::change::Change;
use super::config::OnLostHistory;
use super::failure::{Failure, judge, silent_collection};
use super::position::{Position, Token};
use super::source::{ChangeStreamSource, backoff};
use super::split::Fragments;
use super::stats::now_secs;
use super::stream::{Opener, Pace};

/// The shortest time between commits of a quiet stream's token: often enough to stay within the oplog, yet few writes.
const QUIET_COMMIT: Duration = Duration::from_secs(5);

/// The time limit for an answer of the server, which normally comes within a second.
const SILENCE: Duration = Duration::from_secs(90);

/// The number of changes to read one by one before returning to batches, if the oversized one does not come up.
const ONE_BY_ONE: u64 = 10_000;

/// The way in which reading a stream ended without a failure.
enum End {
    /// Shutdown.
    Stopped,
    /// The stream was invalidated (its collection is gone); another one continues after it.
    Invalidated,
    /// Reading one by one is no longer needed.
    Steady,
}

/// Reads one stream after another, from the committed position on.
pub(super) struct Reader<'a> {
    source: &'a ChangeStreamSource,
    opener: &'a Opener,
    publishing: Publishing,
    shutdown: &'a CancellationToken,
    /// The committed position; `None`: start from now.
    position: Option<Position>,
    /// The last position before lost history and the reason; reported with the first position after it.
    lost: Option<(Position, String)>,
    /// The event that is about to invalidate the stream, in words, such as a dropped collection.
    emptied: Option<String>,
    /// The pairs of reason and collection for which a skipped change has been logged.
    told: HashSet<(Skipped, String)>,
    watch: PointerWatch,
    backoff: Backoff,
    /// The time of the last commit.
    committed: Instant,
}

impl<'a> Reader<'a> {
    /// Continues after `position`, or starts from now.
    pub(super) fn new(
        source: &'a ChangeStreamSource,
        opener: &'a Opener,
        publishing: Publishing,
        shutdown: &'a CancellationToken,
        position: Option<Position>,
    ) -> Self {
        Self {
            source,
            opener,
            publishing,
            shutdown,
            position,
            lost: None,
            emptied: None,
            told: HashSet::new(),
            watch: PointerWatch::new(&source.mapping),
            backoff: backoff(),
            committed: Instant::now(),
        }
    }

    /// Reads until shutdown, or until an operator has to act.
    pub(super) async fn run(&mut self) -> Result<(), SourceError> {
        let mut pace = Pace::Batches;
        loop {
            let failure = match self.read(pace).await {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Invalidated | End::Steady) => {
                    pace = Pace::Batches;
                    continue;
                }
                Err(Failure::TooLarge) if pace == Pace::OneByOne => {
                    pace = Pace::Batches;
                    match self.pass_one().await {
                        Ok(true) => continue,
                        Ok(false) => return Ok(()),
                        Err(failure) => failure,
                    }
                }
                // It lies somewhere in the reply that the server was filling.
                Err(Failure::TooLarge) => {
                    pace = Pace::OneByOne;
                    continue;
                }
                Err(failure) => failure,
            };
            let why = match failure {
                Failure::Passing(why) => why,
                Failure::TooLarge => "a change is too large".to_owned(),
                Failure::NeedsPerson(what) => return Err(self.source.error(what)),
                Failure::HistoryLost(why) => self.history_lost(why)?,
            };
            if !self.source.wait(&mut self.backoff, &why, self.shutdown).await {
                return Ok(());
            }
        }
    }

    /// Applies `on_lost_history`: an error that says what to do, or a restart from now.
    fn history_lost(&mut self, why: String) -> Result<String, SourceError> {
        let Some(position) = self.position.take() else { return Ok(why) };
        match self.source.config.on_lost_history {
            OnLostHistory::Fail => Err(self.source.error(format!(
                "MongoDB no longer has the changes after the stored resume token ({why}): set on_lost_history = \
                \"restart\" to continue from now, with an event that reports the gap; a larger oplog keeps changes for longer"
            ))),
            OnLostHistory::Restart => {
                self.lost = Some((position, format!("history lost: {why}")));
                Ok(why)
            }
        }
    }

    /// Opens a stream after the position. `None`: shutdown came first.
    async fn open(&self, pace: Pace) -> Result<Option<ChangeStream<RawDocumentBuf>>, Failure> {
        let token = self.position.as_ref().map(|position| &position.token);
        let silent_one = tokio::select! {
            () = self.shutdown.cancelled() => return Ok(None),
            found = tokio::time::timeout(SILENCE, self.opener.without_stream()) => found.ok().flatten(),
        };
        if let Some((name, kind)) = silent_one {
            return Err(silent_collection(&name, kind));
        }
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(None),
            opened = tokio::time::timeout(SILENCE, self.opener.open(token, pace)) => match opened {
                Ok(Ok(stream)) => Ok(Some(stream)),
                Ok(Err(error)) => Err(judge(&error)),
                Err(_) => Err(silent()),
            },
        }
    }

    /// Reads one stream until it ends or fails. Changes that were read are committed first, even before a failure.
    async fn read(&mut self, pace: Pace) -> Result<End, Failure> {
        let Some(mut stream) = self.open(pace).await? else { return Ok(End::Stopped) };
        self.source.stats.opened.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(source = %self.source.name, ?pace, "change stream opened");
        if self.position.is_none() && !self.begin(stream.resume_token().as_ref()).await? {
            return Ok(End::Stopped);
        }
        let mut batch = Batch::default();
        let mut fragments = Fragments::default();
        let mut seen = 0;
        loop {
            let got = {
                let mut next = pin!(stream.next_if_any());
                // The driver's buffered changes fill the batch first. Once it has to ask the server, the batch is published.
                match poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
                    Poll::Ready(got) => Ok(got),
                    Poll::Pending => {
                        if !self.commit(&mut batch).await {
                            return Ok(End::Stopped);
                        }
                        tokio::select! {
                            () = self.shutdown.cancelled() => return Ok(End::Stopped),
                            got = tokio::time::timeout(SILENCE, next) => got,
                        }
                    }
                }
            };
            match got {
                Err(_) => return Err(silent()),
                Ok(Err(error)) => {
                    return if self.commit(&mut batch).await { Err(judge(&error)) } else { Ok(End::Stopped) };
                }
                Ok(Ok(Some(document))) => {
                    self.backoff.reset();
                    seen += 1;
                    let over = self.take(document, &mut fragments, &mut batch);
                    if (over || batch.is_full(self.publishing.at_most(usize::MAX))) && !self.commit(&mut batch).await {
                        return Ok(End::Stopped);
                    }
                    if over {
                        return Ok(End::Invalidated);
                    }
                    if pace == Pace::OneByOne && seen == ONE_BY_ONE && !fragments.is_pending() {
                        return if self.commit(&mut batch).await { Ok(End::Steady) } else { Ok(End::Stopped) };
                    }
                }
                Ok(Ok(None)) => {
                    if !stream.is_alive() {
                        return Err(Failure::Passing("the server ended the stream".to_owned()));
                    }
                    self.backoff.reset();
                    if fragments.is_pending() {
                        continue;
                    }
                    self.source.stats.caught_up();
                    if !self.quiet(stream.resume_token().as_ref()).await {
                        return Ok(End::Stopped);
                    }
                    if pace == Pace::OneByOne {
                        return Ok(End::Steady);
                    }
                }
            }
        }
    }

    /// Commits the place where a stream without a position begins, so that a crash misses nothing from here on. After lost history
    /// the same commit publishes the gap event.
    async fn begin(&mut self, token: Option<&ResumeToken>) -> Result<bool, Failure> {
        let Some(token) = token.and_then(Token::from_driver) else {
            return Err(Failure::Passing("the server gave no token to start from".to_owned()));
        };
        let to = Position { token, time: now_secs() };
        let mut batch = Batch::default();
        if let Some((from, reason)) = self.lost.take() {
            self.gap(&mut batch, Some(&from), &to, &reason, None);
        }
        batch.position = Some(to);
        let committed = self.commit(&mut batch).await;
        if committed {
            tracing::info!(source = %self.source.name, "the change stream stands at a new beginning");
        }
        Ok(committed)
    }

    /// Commits the token of a quiet stream now and then. Otherwise it would fall out of the oplog although nothing was missed.
    async fn quiet(&mut self, token: Option<&ResumeToken>) -> bool {
        if self.committed.elapsed() < QUIET_COMMIT {
            return true;
        }
        let Some(token) = token.and_then(Token::from_driver) else { return true };
        if self.position.as_ref().is_some_and(|position| position.token == token) {
            return true;
        }
        self.commit(&mut Batch { position: Some(Position { token, time: now_secs() }), ..Batch::default() }).await
    }

    /// Publishes the batch together with its position. False: shutdown came first.
    async fn commit(&mut self, batch: &mut Batch) -> bool {
        let Batch { events, position, .. } = std::mem::take(batch);
        let Some(position) = position else { return true };
        let cursor = position.to_cursor(&self.source.scope);
        if !self.publishing.publish(events, Some(cursor)).await {
            return false;
        }
        self.source.stats.stands_at(position.time);
        self.position = Some(position);
        self.committed = Instant::now();
        true
    }

    /// Passes the change after the position, which is too large to send: reads its token alone and publishes a gap. False: shutdown
    /// came first.
    async fn pass_one(&mut self) -> Result<bool, Failure> {
        let Some(mut stream) = self.open(Pace::Headers).await? else { return Ok(false) };
        let began = Instant::now();
        let change = loop {
            let next = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(false),
                next = tokio::time::timeout(SILENCE, stream.next_if_any()) => next,
            };
            match next {
                Ok(Ok(Some(document))) => break Change::new(document),
                Ok(Err(error)) => return Err(judge(&error)),
                Ok(Ok(None)) if began.elapsed() < SILENCE => {}
                _ => return Err(silent()),
            }
        };
        let Some(token) = change.token() else { return Err(Failure::Passing("a change has no token".to_owned())) };
        let time = change.cluster_time().map_or_else(now_secs, |time| time.time);
        let here = Position { token, time };
        let (collection, _) = change.collections();
        let (operation, collection) = (change.operation(), collection.unwrap_or_default());
        let reason = format!(
            "one change ({operation} in {collection}) is larger than the 16 MiB that MongoDB can send; it was left out"
        );
        self.source.counters.skipped.fetch_add(1, Ordering::Relaxed);
        self.source.stats.too_large.fetch_add(1, Ordering::Relaxed);
        let mut batch = Batch::default();
        self.gap(&mut batch, self.position.as_ref(), &here, &reason, Some(&change));
        batch.position = Some(here);
        Ok(self.commit(&mut batch).await)
    }
}

fn silent() -> Failure {
    Failure::Passing(format!("no answer from MongoDB for {} s", SILENCE.as_secs()))
}
