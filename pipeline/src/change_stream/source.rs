//! The change stream as a [`Source`]: what it reads is published together with the token to go on after.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::{Publisher, Source, SourceError};
use bson::RawDocumentBuf;
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use tokio_util::sync::CancellationToken;

use super::change::{Change, derived_id};
use super::config::{ChangeStreamConfig, ChangeStreamConfigError, OnLostHistory, Scope};
use super::failure::{Failure, judge};
use super::figures::{ChangeStreamFigures, now_secs};
use super::notice;
use super::position::{Position, Token};
use super::split::{Fragments, Whole};
use super::stream::{Opener, Pace};
use crate::backoff::Backoff;
use crate::mapping::{Mapping, Skipped};
use crate::publishing::{Publishing, SourceCounters};

/// The most events published together, and about the most bytes.
const BATCH: (usize, usize) = (1024, 8 << 20);

/// How often the token of a quiet stream is committed at the most: so that it does not fall out of the oplog, and writes little.
const QUIET_COMMIT: Duration = Duration::from_secs(5);

/// How long the server may take for an answer that it gives within a second when all is well.
const SILENCE: Duration = Duration::from_secs(90);

/// How many changes are read one by one before reading goes on in batches, if the one that was too large does not turn up again.
const ONE_BY_ONE: u64 = 10_000;

/// How often figures are logged and the oplog is looked at.
const REPORT: Duration = Duration::from_secs(60);

/// What is left of the oplog when it is time to warn.
const LITTLE_OPLOG: Duration = Duration::from_secs(60 * 60);

/// A MongoDB change stream that is published to a broker.
///
/// The token is committed in the same atomic batch as the events, so a restart goes on exactly where the broker's storage stands. One
/// batch is on its way at a time; meanwhile nothing is read but what the server was asked for already.
pub struct ChangeStreamSource {
    name: String,
    config: ChangeStreamConfig,
    scope: Scope,
    mapping: Mapping,
    counters: Arc<SourceCounters>,
    figures: Arc<ChangeStreamFigures>,
}

impl ChangeStreamSource {
    /// A source called `name`: the key of its cursor. Nothing is connected to yet.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(
        name: impl Into<String>,
        config: ChangeStreamConfig,
        mapping: Mapping,
    ) -> Result<Self, ChangeStreamConfigError> {
        let scope = config.check()?;
        let (counters, figures) = (Arc::default(), Arc::default());
        Ok(Self { name: name.into(), config, scope, mapping, counters, figures })
    }

    /// Its counters.
    #[must_use]
    pub fn counters(&self) -> Arc<SourceCounters> {
        Arc::clone(&self.counters)
    }

    /// How far behind it is.
    #[must_use]
    pub fn figures(&self) -> Arc<ChangeStreamFigures> {
        Arc::clone(&self.figures)
    }

    fn error(&self, reason: impl Into<String>) -> SourceError {
        SourceError { source_name: self.name.clone(), reason: reason.into(), cause: None }
    }

    /// A client, as soon as the connection string can be resolved. `None`: told to stop meanwhile.
    async fn connect(&self, shutdown: &CancellationToken) -> Result<Option<Opener>, SourceError> {
        let mut backoff = backoff();
        loop {
            let failure = tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                opener = Opener::new(&self.config, self.scope.clone()) => match opener {
                    Ok(opener) => return Ok(Some(opener)),
                    Err(error) => judge(&error),
                },
            };
            let (Failure::Passing(why) | Failure::HistoryLost(why)) = failure else {
                let Failure::NeedsPerson(why) = failure else { return Err(self.error("the uri cannot be used")) };
                return Err(self.error(why));
            };
            if !self.wait(&mut backoff, &why, shutdown).await {
                return Ok(None);
            }
        }
    }

    /// Says why, and waits. False: told to stop meanwhile.
    async fn wait(&self, backoff: &mut Backoff, why: &str, shutdown: &CancellationToken) -> bool {
        let delay = backoff.next_delay();
        tracing::warn!(source = %self.name, error = why, again_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "the change stream is interrupted");
        tokio::select! {
            () = shutdown.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }

    /// Logs once a minute how it is doing.
    async fn report(&self, opener: &Opener) {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(REPORT).await;
            let oldest = tokio::time::timeout(REPORT, opener.oldest_change()).await.ok().flatten();
            self.figures.oldest(oldest);
            let (lag, remaining) = (self.figures.lag(), self.figures.remaining_oplog());
            tracing::info!(
                source = %self.name,
                read = load(&self.counters.read),
                published = load(&self.counters.published),
                skipped = load(&self.counters.skipped),
                gaps = load(&self.figures.gaps),
                lag_s = lag.map(|lag| lag.as_secs()),
                remaining_oplog_s = remaining.map(|remaining| remaining.as_secs()),
                "change stream"
            );
            if let (Some(lag), Some(remaining)) = (lag, remaining)
                && lag > REPORT
                && remaining < LITTLE_OPLOG
            {
                tracing::warn!(source = %self.name, lag_s = lag.as_secs(), remaining_oplog_s = remaining.as_secs(), "the change stream is behind, and MongoDB will soon drop what it has not read: make the oplog larger, or the consumers faster");
            }
        }
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30))
}

#[async_trait]
impl Source for ChangeStreamSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(
        self: Box<Self>,
        publisher: Arc<dyn Publisher>,
        shutdown: CancellationToken,
    ) -> Result<(), SourceError> {
        let publishing = Publishing::new(&self.name, publisher, Arc::clone(&self.counters), shutdown.clone());
        let Some(cursor) = publishing.cursor().await else { return Ok(()) };
        let position = cursor.filter(|cursor| !cursor.is_empty());
        let position = position.map(|cursor| Position::from_cursor(&cursor, &self.scope)).transpose();
        let position = position.map_err(|unusable| self.error(unusable.to_string()))?;
        let Some(opener) = self.connect(&shutdown).await? else { return Ok(()) };
        tracing::info!(
            source = %self.name,
            database = %self.scope.database,
            collections = ?self.scope.collections,
            after = position.as_ref().map(|position| position.token.text()),
            "source started"
        );
        let mut reader = Reader {
            source: &self,
            opener: &opener,
            publishing,
            shutdown: &shutdown,
            position,
            lost: None,
            emptied: None,
            backoff: backoff(),
            committed: Instant::now(),
        };
        tokio::select! {
            done = reader.run() => done,
            () = self.report(&opener) => Ok(()),
        }
    }
}

/// What was read and is not published yet.
#[derive(Default)]
struct Batch {
    events: Vec<(TopicName, NewEvent)>,
    bytes: usize,
    /// After the last of them.
    position: Option<Position>,
}

impl Batch {
    fn push(&mut self, event: (TopicName, NewEvent)) {
        self.bytes += event.1.payload.len();
        self.events.push(event);
    }

    fn is_full(&self) -> bool {
        self.events.len() >= BATCH.0 || self.bytes >= BATCH.1
    }
}

/// Why reading a stream ended in an orderly way.
enum End {
    /// The source is told to stop.
    Stopped,
    /// The stream is over; another one goes on after it.
    Invalidated,
    /// Reading one by one can end.
    Steady,
}

/// Reads streams, one after the other.
struct Reader<'a> {
    source: &'a ChangeStreamSource,
    opener: &'a Opener,
    publishing: Publishing,
    shutdown: &'a CancellationToken,
    /// What is committed; `None`: begin from now.
    position: Option<Position>,
    /// Where history was lost and why: to be told with the first position after it.
    lost: Option<(Position, String)>,
    /// What happened to the collection before the stream ended.
    emptied: Option<String>,
    backoff: Backoff,
    /// When something was committed last.
    committed: Instant,
}

impl Reader<'_> {
    async fn run(&mut self) -> Result<(), SourceError> {
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
                // It is somewhere in what the server was about to send.
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

    /// By the policy: an error that says what to do, or a new beginning.
    fn history_lost(&mut self, why: String) -> Result<String, SourceError> {
        let Some(position) = self.position.take() else { return Ok(why) };
        match self.source.config.on_lost_history {
            OnLostHistory::Fail => Err(self.source.error(format!(
                "MongoDB does not have the changes any more that come after the stored resume token ({why}): set on_lost_history = \
                 \"restart\" to go on from now, with an event that tells of the gap; a larger oplog keeps changes for longer"
            ))),
            OnLostHistory::Restart => {
                self.lost = Some((position, format!("history lost: {why}")));
                Ok(why)
            }
        }
    }

    async fn open(&self, pace: Pace) -> Result<Option<ChangeStream<RawDocumentBuf>>, Failure> {
        let token = self.position.as_ref().map(|position| &position.token);
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(None),
            opened = tokio::time::timeout(SILENCE, self.opener.open(token, pace)) => match opened {
                Ok(Ok(stream)) => Ok(Some(stream)),
                Ok(Err(error)) => Err(judge(&error)),
                Err(_) => Err(silent()),
            },
        }
    }

    async fn read(&mut self, pace: Pace) -> Result<End, Failure> {
        let Some(mut stream) = self.open(pace).await? else { return Ok(End::Stopped) };
        self.source.figures.opened.fetch_add(1, Ordering::Relaxed);
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
                // What the driver has at hand is taken first. When it has to ask the server, what was read is published meanwhile.
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
                    self.backoff.healthy();
                    seen += 1;
                    let over = self.take(document, &mut fragments, &mut batch);
                    if (over || batch.is_full()) && !self.commit(&mut batch).await {
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
                    self.backoff.healthy();
                    if fragments.is_pending() {
                        continue;
                    }
                    self.source.figures.caught_up();
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

    /// Commits the place at which a stream without a token begins, so that what comes from now on is not missed whatever happens;
    /// and, where history was lost, the event that tells of it.
    async fn begin(&mut self, token: Option<&ResumeToken>) -> Result<bool, Failure> {
        let Some(token) = token.and_then(Token::from_driver) else {
            return Err(Failure::Passing("the server gave no token to begin at".to_owned()));
        };
        let to = Position { token, time: now_secs() };
        let mut batch = Batch::default();
        if let Some((from, reason)) = self.lost.take() {
            self.gap(&mut batch, Some(&from), &to, &reason);
        }
        batch.position = Some(to);
        let committed = self.commit(&mut batch).await;
        if committed {
            tracing::info!(source = %self.source.name, "the change stream stands at a new beginning");
        }
        Ok(committed)
    }

    /// A quiet stream's token moves as well, or it would be the oldest in the oplog one day.
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

    /// Publishes what is in the batch, with the position. False: told to stop meanwhile.
    async fn commit(&mut self, batch: &mut Batch) -> bool {
        let Batch { events, position, .. } = std::mem::take(batch);
        let Some(position) = position else { return true };
        let cursor = position.to_cursor(&self.source.scope);
        if !self.publishing.publish(events, Some(cursor)).await {
            return false;
        }
        self.source.figures.stands_at(position.time);
        self.position = Some(position);
        self.committed = Instant::now();
        true
    }

    /// Takes a document of the stream. True: the stream is over with it.
    fn take(&mut self, document: RawDocumentBuf, fragments: &mut Fragments, batch: &mut Batch) -> bool {
        let source = self.source;
        let (change, known_by) = match fragments.push(document) {
            Whole::Change(change, known_by) => (change, known_by),
            Whole::More => return false,
            Whole::Unusable(why) => {
                source.counters.skipped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(source = %source.name, why, "skipped what is no change");
                return false;
            }
        };
        let before = batch.position.clone().or_else(|| self.position.clone());
        let time = change.cluster_time().map(|time| time.time);
        let time = time.or(before.as_ref().map(|before| before.time)).unwrap_or_else(now_secs);
        let Some(token) = change.token() else { return false };
        let here = Position { token, time };
        source.figures.read(time);
        if source.scope.publishes(change.operation()) {
            source.counters.read.fetch_add(1, Ordering::Relaxed);
            match source.mapping.apply_to(&change, &derived_id(&source.name, &known_by)) {
                Ok(event) => batch.push(event),
                Err(why) => self.left_out(batch, before.as_ref(), &here, &change, why),
            }
        }
        let over = change.operation() == "invalidate";
        if over {
            let reason = self.emptied.take().unwrap_or_else(|| "the stream was invalidated".to_owned());
            self.gap(batch, before.as_ref(), &here, &reason);
        } else if let Some(reason) = self.what_was_emptied(&change) {
            // Of several collections, the others go on; a stream of one collection ends with an invalidate.
            if source.scope.collections.len() > 1 && change.operation() != "dropDatabase" {
                self.gap(batch, before.as_ref(), &here, &reason);
            } else {
                self.emptied = Some(reason);
            }
        }
        batch.position = Some(here);
        over
    }

    /// Which collection is no longer what it was, in words.
    fn what_was_emptied(&self, change: &Change) -> Option<String> {
        let (collection, to) = change.collections();
        let collection = collection.unwrap_or_default();
        match change.operation() {
            "drop" => Some(format!("the collection {collection} was dropped")),
            "rename" => Some(format!("the collection {collection} was renamed to {}", to.unwrap_or_default())),
            "dropDatabase" => Some(format!("the database {} was dropped", self.source.scope.database)),
            _ => None,
        }
    }

    /// A change that is not published: by the rules of the configuration, or because it cannot be.
    fn left_out(&self, batch: &mut Batch, before: Option<&Position>, here: &Position, change: &Change, why: Skipped) {
        self.source.counters.skipped.fetch_add(1, Ordering::Relaxed);
        let (collection, _) = change.collections();
        let collection = collection.unwrap_or_default();
        let cannot = match why {
            Skipped::NoTopic | Skipped::NoMessage => {
                tracing::debug!(source = %self.source.name, token = %here.token.text(), ?why, "skipped a change");
                return;
            }
            Skipped::TooDeep => "is nested too deep",
            Skipped::TooLarge => "is too large",
            Skipped::Malformed => "cannot be read",
        };
        let reason = format!("the message of a change to {collection} {cannot}; it was left out");
        tracing::warn!(source = %self.source.name, collection, bytes = change.bytes(), token = %here.token.text(), "{reason}");
        self.gap(batch, before, here, &reason);
    }

    fn gap(&self, batch: &mut Batch, from: Option<&Position>, to: &Position, reason: &str) {
        let source = self.source;
        source.figures.gaps.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(source = %source.name, reason, "there is a gap in the changes");
        if let Some(event) = notice::gap(&source.name, &source.mapping, from, to, reason) {
            batch.push(event);
        }
    }

    /// Gets past the change after the position, which is too large to be sent: reads its token alone, and tells of it. False: told to
    /// stop meanwhile.
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
            "one change ({operation} in {collection}) is larger than the 16 MiB that MongoDB can hand over; it was left out"
        );
        self.source.counters.skipped.fetch_add(1, Ordering::Relaxed);
        self.source.figures.too_large.fetch_add(1, Ordering::Relaxed);
        let mut batch = Batch::default();
        self.gap(&mut batch, self.position.as_ref(), &here, &reason);
        batch.position = Some(here);
        Ok(self.commit(&mut batch).await)
    }
}

fn silent() -> Failure {
    Failure::Passing(format!("no answer from MongoDB for {} s", SILENCE.as_secs()))
}
