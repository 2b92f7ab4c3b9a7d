//! The first pool: reads a message, shows the tweet, measures the time, and passes on the tweets in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::mpsc;

use super::batcher::Collected;
use super::console::Screen;
use super::progress::Ticket;
use super::statistics::Statistics;
use super::tweet::{Tweet, read};
use crate::sink::Poison;

/// The output of a stream.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The event's data, as received.
    pub(super) data: String,
    /// The event's SSE id.
    pub(super) event_id: Arc<str>,
    pub(super) ticket: Ticket,
}

/// A tweet to be given one of its two scores.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    /// Distinguishes two copies of a tweet that are in progress at the same time.
    pub(super) number: u64,
    pub(super) tweet: Arc<Tweet>,
    pub(super) ticket: Ticket,
}

/// The state shared by the workers of the pool.
pub(super) struct Logger {
    pub(super) simulated_work: (Duration, Duration),
    pub(super) screen: Screen,
    pub(super) statistics: Arc<Statistics>,
    pub(super) numbers: AtomicU64,
    pub(super) sentiment: mpsc::Sender<Logged>,
    pub(super) engagement: mpsc::Sender<Logged>,
    /// Input that is not a tweet goes straight to the batcher.
    pub(super) rejected: mpsc::Sender<Collected>,
}

impl Logger {
    /// The work of the pool on one message.
    pub(super) async fn work(self: Arc<Self>, worker: u64, incoming: Incoming) {
        let began = Instant::now();
        self.simulate_work().await;
        let Incoming { data, event_id, ticket } = incoming;
        let tweets = read(data);
        if let Some(Ok(tweet)) = tweets.first() {
            self.screen.show(worker, &tweet.text);
        }
        self.statistics.logged(began.elapsed());
        for tweet in tweets {
            let sent = match tweet {
                Ok(tweet) => {
                    let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                    let logged = Logged { number, tweet: Arc::new(tweet), ticket: ticket.clone() };
                    self.sentiment.send(logged.clone()).await.is_ok() && self.engagement.send(logged).await.is_ok()
                }
                Err(malformed) => {
                    let id = event_id.to_string();
                    let poison = Poison { collection: None, id, document: malformed.text, reason: malformed.reason };
                    self.rejected.send(Collected::Rejected(poison, ticket.clone())).await.is_ok()
                }
            };
            if !sent {
                // The next stage has ended, which only a panic there can cause: without its ticket, the event is read again.
                return;
            }
        }
        ticket.finish();
    }

    async fn simulate_work(&self) {
        let (least, most) = self.simulated_work;
        if !most.is_zero() {
            // Drawn before the wait: a generator must not be held across it.
            let time = if least < most { rand::rng().random_range(least..=most) } else { least };
            tokio::time::sleep(time).await;
        }
    }
}
