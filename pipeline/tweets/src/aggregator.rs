//! Joins the two scores of a tweet and builds its documents.
//!
//! Each tweet takes two ways, one per score, and each half carries a ticket of the same event. A half is held until the other
//! arrives; then one ticket finishes and the other accompanies the joined tweet to the sink. A half whose counterpart was lost in a
//! crash is given up after [`PATIENCE`], so that the stream's cursor can move on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, interval};

use super::batcher::{Collected, ScoredTweet};
use super::document::{tweet_document, user_document};
use super::logger::Logged;
use super::sentiment::Sentiment;
use crate::sink::{TaggedTweet, UserEngagement};

/// The time a tweet with one score waits for the other. Longer than any queue takes to drain: only a worker that crashed on
/// its half leaves the other without a match.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most tweets that wait for their other score; beyond it, the oldest is dropped. More than all preceding queues hold
/// together.
const MAX_HALVES: usize = 200_000;

/// The interval between checks for expired halves.
const LOOK: Duration = Duration::from_secs(1);

/// A tweet with one of its scores.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) logged: Logged,
    pub(super) score: Score,
}

/// One of the two scores.
#[derive(Debug)]
pub(super) enum Score {
    Sentiment(Sentiment),
    Engagement(f64),
}

/// Joins halves until the input ends. `forgotten` counts the tweets given up.
pub(super) async fn run(mut halves: mpsc::Receiver<Half>, batcher: mpsc::Sender<Collected>, forgotten: Arc<AtomicU64>) {
    let mut aggregator = Aggregator::new(MAX_HALVES, forgotten);
    let mut look = interval(LOOK);
    let mut arrived = Vec::new();
    loop {
        tokio::select! {
            count = halves.recv_many(&mut arrived, 64) => {
                if count == 0 {
                    break;
                }
                let now = Instant::now();
                for half in arrived.drain(..) {
                    if let Some(tweet) = aggregator.join(half, now) {
                        // The receiver ends after this stage; if not, the ticket is dropped with the tweet and the event is read
                        // again.
                        let _ = batcher.send(Collected::Tweet(Box::new(tweet))).await;
                    }
                }
            }
            _ = look.tick() => aggregator.forget_older(Instant::now()),
        }
    }
    // The senders of the missing halves have ended.
    aggregator.forget_all();
}

/// The waiting halves. Keyed by a tweet's number, not its `id_str`: the same tweet can be in progress twice, each with its own
/// two halves.
struct Aggregator {
    halves: HashMap<u64, Half>,
    /// In order of arrival; entries already joined remain for a while.
    order: VecDeque<(Instant, u64)>,
    most: usize,
    forgotten: Arc<AtomicU64>,
}

impl Aggregator {
    fn new(most: usize, forgotten: Arc<AtomicU64>) -> Self {
        Self { halves: HashMap::new(), order: VecDeque::new(), most, forgotten }
    }

    /// The joined tweet, if this is the second half.
    fn join(&mut self, half: Half, now: Instant) -> Option<ScoredTweet> {
        let number = half.logged.number;
        let (sentiment, engagement, logged) = match (self.halves.remove(&number), half) {
            (
                Some(Half { score: Score::Engagement(engagement), logged: first }),
                Half { score: Score::Sentiment(sentiment), logged },
            )
            | (
                Some(Half { score: Score::Sentiment(sentiment), logged: first }),
                Half { score: Score::Engagement(engagement), logged },
            ) => {
                first.ticket.finish();
                (sentiment, engagement, logged)
            }
            (_, half) => {
                if self.halves.len() >= self.most {
                    self.forget_oldest();
                }
                self.halves.insert(number, half);
                self.order.push_back((now, number));
                if self.order.len() > 2 * self.most {
                    let halves = &self.halves;
                    self.order.retain(|(_, number)| halves.contains_key(number));
                }
                return None;
            }
        };
        while self.order.front().is_some_and(|(_, number)| !self.halves.contains_key(number)) {
            self.order.pop_front();
        }
        Some(scored(logged, &sentiment, engagement))
    }

    fn forget_older(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(arrived, _)| now.duration_since(*arrived) >= PATIENCE) {
            self.forget_oldest();
        }
    }

    fn forget_all(&mut self) {
        while !self.halves.is_empty() {
            self.forget_oldest();
        }
    }

    /// Removes the first entry of the order, and gives its tweet up if it is still waiting.
    fn forget_oldest(&mut self) {
        while let Some((_, number)) = self.order.pop_front() {
            if let Some(half) = self.halves.remove(&number) {
                tracing::warn!(tweet = %half.logged.tweet.id, "gave up a tweet: one of its scores never arrived");
                self.forgotten.fetch_add(1, Ordering::Relaxed);
                half.logged.ticket.finish();
                return;
            }
        }
    }
}

fn scored(logged: Logged, sentiment: &Sentiment, engagement: f64) -> ScoredTweet {
    let tweet = &logged.tweet;
    ScoredTweet {
        document: tweet_document(tweet, sentiment, engagement),
        user: user_document(tweet),
        engagement: UserEngagement {
            user: tweet.user_id.clone(),
            tweet: tweet.id.clone(),
            score: engagement,
            counts: tweet.counts,
        },
        tagged: (!tweet.tags.is_empty()).then(|| TaggedTweet { tweet: tweet.id.clone(), tags: tweet.tags.clone() }),
        ticket: logged.ticket,
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Progress;
    use super::super::sentiment::sentiment;
    use super::super::tweet::read;
    use super::*;

    struct Fixture {
        progress: Arc<Progress>,
        aggregator: Aggregator,
        forgotten: Arc<AtomicU64>,
    }

    impl Fixture {
        fn new(most: usize) -> Self {
            let forgotten = Arc::new(AtomicU64::new(0));
            let aggregator = Aggregator::new(most, Arc::clone(&forgotten));
            Self { progress: Progress::new(""), aggregator, forgotten }
        }

        async fn logged(&self, number: u64) -> Logged {
            let event = format!("e{number}");
            let data = r#"{"message":{"tweet":{"id_str":"1","text":"good","user":{"id_str":"7"},"retweet_count":3}}}"#;
            let tweet = Arc::new(read(data.to_owned()).remove(0).unwrap());
            Logged { number, tweet, ticket: self.progress.begin(&Arc::from(event)).await }
        }
    }

    fn halves(logged: Logged) -> (Half, Half) {
        let score = Score::Sentiment(sentiment(&logged.tweet.text));
        let first = Half { logged: logged.clone(), score };
        (first, Half { logged, score: Score::Engagement(3.0) })
    }

    #[tokio::test(start_paused = true)]
    async fn copies_of_a_tweet_are_joined_each_with_its_own_half() {
        let mut fixture = Fixture::new(10);
        let (a1, a2) = halves(fixture.logged(1).await);
        let (b1, b2) = halves(fixture.logged(2).await);
        let now = Instant::now();
        assert!(fixture.aggregator.join(a1, now).is_none());
        assert!(fixture.aggregator.join(b2, now).is_none());
        let b = fixture.aggregator.join(b1, now).unwrap();
        let a = fixture.aggregator.join(a2, now).unwrap();
        assert_eq!(a.document, b.document);
        assert!(a.document.json.contains(r#""engagement_score":3.0"#), "{}", a.document.json);
        b.ticket.finish();
        assert_eq!(&*fixture.progress.cursor(), "");
        a.ticket.finish();
        assert_eq!(&*fixture.progress.cursor(), "e2");
        assert!(fixture.aggregator.order.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_tweet_is_forgotten_after_a_time_and_holds_up_nothing_then() {
        let mut fixture = Fixture::new(10);
        let (half, _other) = halves(fixture.logged(1).await);
        let _of_a_crash = std::thread::spawn(move || {
            let _lost = _other;
            std::panic::resume_unwind(Box::new(()))
        })
        .join();
        let began = Instant::now();
        assert!(fixture.aggregator.join(half, began).is_none());
        fixture.aggregator.forget_older(began + PATIENCE - Duration::from_millis(1));
        assert_eq!(fixture.forgotten.load(Ordering::Relaxed), 0);
        fixture.aggregator.forget_older(began + PATIENCE);
        assert_eq!(fixture.forgotten.load(Ordering::Relaxed), 1);
        assert_eq!(&*fixture.progress.cursor(), "e1");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_wait_and_memory_stays_bounded() {
        let mut fixture = Fixture::new(4);
        for number in 0..6 {
            let (half, _other) = halves(fixture.logged(number).await);
            assert!(fixture.aggregator.join(half, Instant::now()).is_none());
        }
        assert_eq!(fixture.forgotten.load(Ordering::Relaxed), 2);
        // One waiting entry ahead of many joined ones.
        for number in 6..100 {
            let (first, second) = halves(fixture.logged(number).await);
            assert!(fixture.aggregator.join(first, Instant::now()).is_none());
            assert!(fixture.aggregator.join(second, Instant::now()).is_some());
            assert!(fixture.aggregator.order.len() <= 9, "{}", fixture.aggregator.order.len());
        }
    }
}
