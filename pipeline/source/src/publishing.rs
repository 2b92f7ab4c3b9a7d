//! Hands a source's events to the broker until each is stored or finally refused, and counts the outcomes.
//!
//! ```text
//!   source ── publish ──► Publishing ── hand over ──► broker
//!                           │    ▲                      │ the topic is full
//!                           │    └───── stand aside ◄───┘
//!                           └── retry: offers waiting events again until they are in
//! ```
//!
//! A full topic must not stop the other topics of the same source. Its events therefore *stand aside*: the broker stores them
//! beside the cursor instead of in the topic, so that the cursor can move past them.
//!
//! # Invariants
//!
//! - Every event before the committed cursor is in its topic, stands aside in storage, or was finally refused. A restart therefore
//!   loses nothing and repeats nothing.
//! - One hand-over is in progress at a time, because `publish` and `retry` both hold the lock on `Aside`. A number is thus never
//!   assigned while a hand-over with an event of that number is in progress.
//! - A failed hand-over is repeated unchanged, with [`Handover::again`] set: only the broker knows whether it was stored.
//! - Events of one topic keep their order. While some of them stand aside, later ones are *held*: they stand aside without being
//!   tried.
//! - At most [`MAX_ASIDE`](broker_core::source::MAX_ASIDE) events stand aside, or
//!   [`MAX_ASIDE_BYTES`](broker_core::source::MAX_ASIDE_BYTES) and the batch that reached it. Then reading pauses.
//!
//! ```text
//!   feed:    a1  b1  a2  b2 │ a3           topic a is full, topic b has room
//!                           └ cursor
//!   in b:    b1  b2
//!   aside:   a1  a2                        a1 was refused as full, a2 follows it; a3 will be held
//! ```

mod aside;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use broker_core::Backoff;
use broker_core::engine::{Handover, Offer, Outcome};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::Publisher;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use aside::Aside;

/// The first and the longest pause after a hand-over that failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The pause before waiting events are offered again: after progress, and at most. It doubles while no event goes in.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A source's counters since it started. Shared with `stats` and the metrics.
#[derive(Debug, Default)]
pub struct SourceCounters {
    /// Events read from the feed.
    pub read: AtomicU64,
    /// Events that are in their topics.
    pub published: AtomicU64,
    /// Events that the rules of the configuration leave out, and events too large or nested too deep to publish.
    pub skipped: AtomicU64,
    /// Events that the broker finally refused.
    pub refused: AtomicU64,
    trouble: std::sync::Mutex<Option<String>>,
}

impl SourceCounters {
    /// The failure that the source currently retries, if any.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the failure that the source retries; `None` once it has passed.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// A source's connection to the broker. It spawns its retries, so it has to be created within a tokio runtime.
pub struct Publishing {
    shared: Arc<Shared>,
    /// Ends the retries when it is dropped.
    _retry: DropGuard,
}

struct Shared {
    name: String,
    publisher: Arc<dyn Publisher>,
    counters: Arc<SourceCounters>,
    shutdown: CancellationToken,
    /// `None` until the standing has been read. Locked during each hand-over, so that one is in progress at a time.
    aside: Mutex<Option<Aside>>,
    /// The number of events that may be read before reading has to wait; 0 pauses it.
    room: watch::Sender<usize>,
    /// The number of events that stand aside.
    waiting: watch::Sender<usize>,
}

impl Publishing {
    /// Publishes for the source called `name` until `shutdown`.
    pub fn new(
        name: &str,
        publisher: Arc<dyn Publisher>,
        counters: Arc<SourceCounters>,
        shutdown: CancellationToken,
    ) -> Self {
        let shutdown = shutdown.child_token();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            publisher,
            counters,
            shutdown: shutdown.clone(),
            aside: Mutex::new(None),
            room: watch::Sender::new(Aside::default().room()),
            waiting: watch::Sender::new(0),
        });
        let retrying = Arc::clone(&shared);
        tokio::spawn(async move {
            tokio::select! {
                () = retrying.shutdown.cancelled() => {}
                () = retrying.retry() => {}
            }
        });
        Self { shared, _retry: shutdown.drop_guard() }
    }

    /// Reads the last committed cursor, retrying until the broker answers. The outer `None`: shutdown came first.
    pub async fn cursor(&self) -> Option<Option<String>> {
        let mut aside = self.shared.aside.lock().await;
        self.shared.read_standing(&mut aside).await
    }

    /// The largest batch that a source should publish, up to `most`: if all of it had to stand aside, the limit would still hold.
    #[must_use]
    pub fn at_most(&self, most: usize) -> usize {
        most.min(*self.shared.room.borrow()).max(1)
    }

    /// Publishes a batch and moves the cursor with it. Returns once every event is in, stands aside or is finally refused. Waits first
    /// while the limit of events that stand aside is reached. False: shutdown came first.
    pub async fn publish(&self, events: Vec<(TopicName, NewEvent)>, cursor: Option<String>) -> bool {
        let shared = &*self.shared;
        if !shared.wait_for_room().await {
            return false;
        }
        tokio::select! {
            // Dropping a hand-over is safe: its batch is atomic, so the cursor tells after a restart whether it was stored.
            () = shared.shutdown.cancelled() => false,
            published = shared.publish(events, cursor) => published,
        }
    }
}

impl Shared {
    /// Reads the cursor and, the first time, the events that stand aside. The outer `None`: shutdown came first.
    async fn read_standing(&self, aside: &mut Option<Aside>) -> Option<Option<String>> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            match self.publisher.standing(&self.name).await {
                Ok(standing) => {
                    if aside.is_none() {
                        let read = aside.insert(Aside::new(standing.aside));
                        if !read.is_empty() {
                            tracing::info!(source = %self.name, events = read.len(), "events stand aside for full topics");
                        }
                        self.announce(read);
                    }
                    return Some(standing.cursor);
                }
                Err(error) => tracing::warn!(source = %self.name, %error, "reading the cursor failed, retrying"),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Waits until events may be read again. False: shutdown came first.
    async fn wait_for_room(&self) -> bool {
        let mut room = self.room.subscribe();
        if *room.borrow_and_update() == 0 {
            tracing::warn!(source = %self.name, "the limit of events that stand aside for full topics is reached: reading pauses until some are in");
        }
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            room = room.wait_for(|room| *room > 0) => room.is_ok(),
        }
    }

    async fn publish(&self, events: Vec<(TopicName, NewEvent)>, cursor: Option<String>) -> bool {
        let mut locked = self.aside.lock().await;
        if locked.is_none() && self.read_standing(&mut locked).await.is_none() {
            return false;
        }
        let Some(aside) = locked.as_mut() else { return false };
        let offers = aside.offers(events);
        let Some(outcomes) = self.hand_over(offers.clone(), cursor).await else { return false };
        self.settle(aside, offers, outcomes);
        true
    }

    /// Offers the events that stand aside again, with growing pauses while none goes in.
    async fn retry(&self) {
        let mut waiting = self.waiting.subscribe();
        let mut pause = RETRY.0;
        while waiting.wait_for(|waiting| *waiting > 0).await.is_ok() {
            tokio::time::sleep(pause).await;
            let mut locked = self.aside.lock().await;
            let Some(aside) = locked.as_mut() else { continue };
            let before = aside.len();
            let offers = aside.next();
            let Some(outcomes) = self.hand_over(offers.clone(), None).await else { return };
            self.settle(aside, offers, outcomes);
            pause = if aside.len() < before { RETRY.0 } else { (pause * 2).min(RETRY.1) };
        }
    }

    /// Repeats a hand-over until the broker has stored it. `None`: shutdown came first.
    async fn hand_over(&self, events: Vec<Offer>, cursor: Option<String>) -> Option<Vec<Outcome>> {
        let mut handover = Handover { source: self.name.clone(), events, cursor, again: false };
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            match self.publisher.hand_over(handover.clone()).await {
                Ok(outcomes) => return Some(outcomes),
                Err(error) => tracing::warn!(source = %self.name, %error, "publishing failed, retrying"),
            }
            // The failed attempt may have been stored; the broker leaves out what was.
            handover.again = true;
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Counts the outcomes and updates the set of events that stand aside.
    fn settle(&self, aside: &mut Aside, offers: Vec<Offer>, outcomes: Vec<Outcome>) {
        let had_any = !aside.is_empty();
        for (offer, outcome) in offers.into_iter().zip(outcomes) {
            match outcome {
                outcome if outcome.stands_aside() => {
                    aside.keep(offer);
                    continue;
                }
                Outcome::Refused(refusal) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(source = %self.name, topic = %offer.topic, id = %offer.event.payload.id(), %refusal, "the broker refused an event, which is passed over");
                }
                _ => {
                    self.counters.published.fetch_add(1, Ordering::Relaxed);
                }
            }
            aside.remove(&offer);
        }
        if let Some(topic) = aside.first_topic().filter(|_| !had_any) {
            tracing::warn!(source = %self.name, %topic, events = aside.len(), "the topic is full: its events stand aside until there is room");
        } else if had_any && aside.is_empty() {
            tracing::info!(source = %self.name, "all events that stood aside are in");
        }
        self.announce(aside);
    }

    /// Publishes the new counts to those who wait for room or for work.
    fn announce(&self, aside: &Aside) {
        self.room.send_replace(aside.room());
        self.waiting.send_replace(aside.len());
    }
}
