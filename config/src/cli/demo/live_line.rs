//! The live line of `herald demo`: counts of tweets read, events published, waiting and acknowledged, and the rate.

use std::time::{Duration, Instant};

use broker_core::engine::{SubscriptionStats, TopicStats};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pipeline_tweets::PipelineStats;

use crate::assembly::Broker;
use crate::assembly::durable::topic_stats;
use crate::logging;
use crate::output::{message, stderr_is_terminal};

/// The interval between updates on a terminal.
const GLANCE: Duration = Duration::from_millis(500);
/// The interval between lines elsewhere.
const LINE: Duration = Duration::from_secs(5);

/// Shows the counts of a topic until it is dropped or finished.
pub(crate) struct LiveLine {
    /// `None` where standard error is no terminal: then a plain line is printed every few seconds.
    bar: Option<ProgressBar>,
    /// The topic to show. Sources whose name begins with it count as its own.
    topic: &'static str,
    /// The topic's `max_waiting`.
    full_at: u64,
}

impl LiveLine {
    pub(crate) fn start(topic: &'static str, full_at: u64) -> Self {
        let bar = stderr_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            logging::write_above(&bar);
            bar
        });
        Self { bar, topic, full_at }
    }

    /// Shows counts indefinitely; does not return. Cancel-safe.
    pub(crate) async fn run(&self, broker: &Broker) {
        let mut timer = tokio::time::interval(if self.bar.is_some() { GLANCE } else { LINE });
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before: Option<(Instant, u64)> = None;
        loop {
            timer.tick().await;
            let now = Instant::now();
            let Some(engine) = broker.engine() else { continue };
            let Some(stats) = topic_stats(&**engine, self.topic).await else { continue };
            let its_sources = broker.source_stats().filter(|(name, _)| name.starts_with(self.topic));
            let read = its_sources.map(|(_, stats)| stats.read).sum();
            let rate = before.map_or(0.0, |(then, published)| {
                stats.published.saturating_sub(published) as f64 / now.duration_since(then).as_secs_f64().max(0.001)
            });
            before = Some((now, stats.published));
            let mut line = line(read, &stats, rate, self.full_at);
            if let Some(tweets) = broker.pipeline_stats() {
                let PipelineStats { scored, crashes, .. } = tweets;
                line.push_str(&format!("; pipeline: {scored} tweets scored, {crashes} workers crashed by the demo's bad messages and replaced"));
            }
            match &self.bar {
                Some(bar) => {
                    bar.set_message(line);
                    bar.tick();
                }
                None => message(&line),
            }
        }
    }

    /// Leaves the last line on the terminal.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// The counts as sums: what is read is published, or on its way, or left out; a published event goes to each subscription.
fn line(read: u64, stats: &TopicStats, rate: f64, full_at: u64) -> String {
    let sum = |count: fn(&SubscriptionStats) -> u64| stats.subscriptions.iter().map(count).sum::<u64>();
    let (waiting, in_flight) = (sum(|s| s.waiting + s.delayed), sum(|s| s.in_flight));
    let acknowledged = sum(|s| s.acknowledged);
    let published = stats.published;
    let mut line = format!(
        "{read} tweets read: {published} published + {} not yet; {} copies for the subscriptions: {waiting} waiting + {in_flight} in flight \
         + {acknowledged} acknowledged; {rate:.0} events/s",
        read.saturating_sub(published),
        waiting + in_flight + acknowledged,
    );
    let fullest = stats.subscriptions.iter().map(|s| s.waiting + s.in_flight + s.delayed).max().unwrap_or(0);
    if fullest >= full_at {
        line.push_str(&format!("; full at {full_at}: its sources wait until something is acknowledged"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_add_up_and_a_full_topic_is_said_to_be_full() {
        let inbox = SubscriptionStats { waiting: 9, in_flight: 1, acknowledged: 4, ..SubscriptionStats::default() };
        let stats = TopicStats { topic: "tweets".to_owned(), published: 14, subscriptions: vec![inbox] };
        assert_eq!(
            line(20, &stats, 9.6, 11),
            "20 tweets read: 14 published + 6 not yet; 14 copies for the subscriptions: 9 waiting + 1 in flight + 4 acknowledged; 10 events/s"
        );
        assert!(line(20, &stats, 0.0, 10).ends_with("its sources wait until something is acknowledged"));
    }
}
