//! Statistics of the last interval: logged, and published to the topics `logger_stats`, `tweets_stats` and `users_stats`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::event::{NewEvent, Payload, Priority};
use broker_core::name::{IdKey, TopicName};
use broker_core::source::Publisher;
use rand::RngExt as _;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::pool::PoolStats;
use crate::sink::Stored;

/// The most durations kept per interval; beyond it, they are a random sample.
const SAMPLES: usize = 4_096;

/// The durations of an interval, in milliseconds.
#[derive(Debug, Default)]
struct Samples {
    kept: Vec<f64>,
    seen: u64,
}

impl Samples {
    /// Algorithm R: every duration seen has the same chance of being kept.
    fn add(&mut self, time: Duration) {
        let ms = time.as_secs_f64() * 1_000.0;
        self.seen += 1;
        if self.kept.len() < SAMPLES {
            self.kept.push(ms);
        } else if let Some(slot) =
            usize::try_from(rand::rng().random_range(0..self.seen)).ok().and_then(|at| self.kept.get_mut(at))
        {
            *slot = ms;
        }
    }

    /// `75%=… | 85%=… | 95%=…`, in milliseconds.
    fn percentiles(&mut self) -> String {
        self.kept.sort_unstable_by(f64::total_cmp);
        let [first, second, third] = [75.0, 85.0, 95.0].map(|n| percentile(&self.kept, n));
        format!("75%={first} | 85%={second} | 95%={third}")
    }
}

/// The `n`th percentile of sorted values: linear interpolation between the two closest ranks, rounded up to hundredths, as in the
/// reference system. 0 if there are none.
fn percentile(sorted: &[f64], n: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = n / 100.0 * last as f64;
    let (lower, upper) = (sorted[rank as usize], sorted[(rank as usize + 1).min(last)]);
    // Subtracts the binary rounding error, or 4.4 would become 4.41.
    ((lower + (upper - lower) * rank.fract()) * 100.0 - 1e-6).ceil() / 100.0
}

/// Everything collected since the last report.
#[derive(Debug, Default)]
struct Window {
    logger: Samples,
    tweets: Samples,
    users: Samples,
    new_tweets: u64,
    changed_users: u64,
}

/// Collects durations and counts.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    window: Mutex<Window>,
}

impl Statistics {
    /// Records how long a logger's worker took for a tweet.
    pub(super) fn logged(&self, took: Duration) {
        self.lock().logger.add(took);
    }

    /// Records a stored batch.
    pub(super) fn stored(&self, stored: &Stored) {
        let mut window = self.lock();
        stored.tweets_took.iter().for_each(|took| window.tweets.add(*took));
        stored.users_took.iter().for_each(|took| window.users.add(*took));
        window.new_tweets += stored.tweets;
        window.changed_users += stored.users;
    }

    /// Reports every `every` until `stop`. A report that cannot be published is dropped: newer stats follow.
    pub(super) async fn report(
        self: Arc<Self>,
        every: Duration,
        loggers: Arc<PoolStats>,
        publisher: Arc<dyn Publisher>,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut crashes_before = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let crashes = loggers.crashes.load(Ordering::Relaxed);
            let (topics, reported) = self.texts(crashes - crashes_before, every);
            if reported {
                crashes_before = crashes;
            }
            let events: Vec<_> = topics.into_iter().filter_map(|(topic, text)| event(topic, &text)).collect();
            if events.is_empty() {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                published = publisher.publish(events) => if let Err(error) = published {
                    tracing::warn!(%error, "publishing the statistics failed");
                },
            }
        }
    }

    /// The report for each topic, in the reference system's wording, and whether it includes the crashes.
    fn texts(&self, crashes: u64, every: Duration) -> (Vec<(&'static str, String)>, bool) {
        let mut window = std::mem::take(&mut *self.lock());
        let seconds = every.as_secs_f64();
        let mut texts = Vec::new();
        if window.logger.seen > 0 || crashes > 0 {
            let stats = window.logger.percentiles();
            texts.push((
                "logger_stats",
                format!("[StatisticWorker - LoggerWorker execution time] Percentile stats {stats} [{crashes} CRASHES/{seconds}sec]"),
            ));
        }
        let bulks = [
            ("users_stats", "users", &mut window.users, window.changed_users),
            ("tweets_stats", "tweets", &mut window.tweets, window.new_tweets),
        ];
        for (topic, collection, samples, processed) in bulks {
            if samples.seen > 0 {
                let stats = samples.percentiles();
                texts.push((
                    topic,
                    format!("[StatisticWorker - Bulk `{collection}` insert stats] Execution time percentile {stats} [processed={processed}]"),
                ));
            }
        }
        for (topic, text) in &texts {
            tracing::info!(%topic, %text, "statistics of the pipeline");
        }
        let reported = texts.first().is_some_and(|(topic, _)| *topic == "logger_stats");
        (texts, reported)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event with a unique id, since an event with the same id would replace the one waiting.
fn event(topic: &'static str, text: &str) -> Option<(TopicName, NewEvent)> {
    let topic = TopicName::new(topic).ok()?;
    let msg = serde_json::to_string(text).ok()?;
    let id = Uuid::now_v7().to_string();
    let priority = Priority::default();
    let payload = Payload::encode(topic.as_str(), priority, &msg, &id);
    Some((topic, NewEvent { id: IdKey::of(&id), priority, ttl_ms: 0, delay_ms: 0, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated_and_rounded_up() {
        let sorted: Vec<f64> = (1..=5).map(f64::from).collect();
        for (values, n, expected) in [
            (&sorted[..], 75.0, 4.0),
            (&sorted[..], 85.0, 4.4),
            (&sorted[..], 95.0, 4.8),
            (&sorted[..2], 75.0, 1.75),
            (&[1.234_5][..], 95.0, 1.24),
            (&[][..], 95.0, 0.0),
        ] {
            assert_eq!(percentile(values, n), expected, "{values:?} {n}");
        }
    }

    #[test]
    fn the_texts_are_those_of_the_reference() {
        let statistics = Statistics::default();
        let every = Duration::from_secs(5);
        assert_eq!(statistics.texts(0, every), (vec![], false));
        for ms in 1..=5 {
            statistics.logged(Duration::from_millis(ms));
        }
        let took = vec![Duration::from_micros(1_500)];
        let stored = Stored { tweets: 7, users: 3, tweets_took: took.clone(), users_took: took, ..Stored::default() };
        statistics.stored(&stored);
        let expected = [
            (
                "logger_stats",
                "[StatisticWorker - LoggerWorker execution time] Percentile stats 75%=4 | 85%=4.4 | 95%=4.8 [2 CRASHES/5sec]",
            ),
            (
                "users_stats",
                "[StatisticWorker - Bulk `users` insert stats] Execution time percentile 75%=1.5 | 85%=1.5 | 95%=1.5 [processed=3]",
            ),
            (
                "tweets_stats",
                "[StatisticWorker - Bulk `tweets` insert stats] Execution time percentile 75%=1.5 | 85%=1.5 | 95%=1.5 [processed=7]",
            ),
        ];
        assert_eq!(statistics.texts(2, every), (expected.map(|(topic, text)| (topic, text.to_owned())).to_vec(), true));
        assert_eq!(statistics.texts(0, every), (vec![], false), "a report starts from zero");
    }

    #[test]
    fn memory_is_bounded_and_the_sample_is_of_all_times() {
        let mut samples = Samples::default();
        for n in 0..100_000_u64 {
            samples.add(Duration::from_millis(n));
        }
        assert_eq!(samples.kept.len(), SAMPLES);
        samples.kept.sort_unstable_by(f64::total_cmp);
        // Five standard deviations of the sample's median on each side.
        let median = percentile(&samples.kept, 50.0);
        assert!((46_000.0..54_000.0).contains(&median), "{median}");
    }
}
