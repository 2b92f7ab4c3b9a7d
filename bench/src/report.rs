//! What a run came to, as numbers.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::verify::Verdict;

/// A run's result. Times are in µs, memory in MB (10^6 bytes).
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `publish`, `work`, `latency`, `fan-out`, `backlog`.
    pub workload: &'static str,
    /// The same with what varies.
    pub title: String,
    /// The server.
    pub server: String,
    /// Its version.
    pub version: String,
    /// What a confirmation means: `synced`, `written`, `memory`.
    pub level: String,
    /// Its storage and settings.
    pub notes: String,
    /// Whether it delivers by priority.
    pub priorities_kept: bool,
    /// Events published.
    pub events: u64,
    /// Bytes of each.
    pub size: usize,
    /// The lowest and the highest priority.
    pub priorities: [i32; 2],
    /// Events in flight to a consumer.
    pub prefetch: Option<usize>,
    /// Subscriptions, each with one consumer.
    pub subscriptions: u64,
    /// Publishing connections.
    pub publishers: usize,
    /// Topics that the events are spread over.
    pub topics: usize,
    /// The most unconfirmed events of each of them.
    pub window: Option<u64>,
    /// Events a second that were asked for.
    pub rate: Option<f64>,
    /// How long it took.
    pub seconds: f64,
    /// What `per_second` counts: `events` or `deliveries`.
    pub counts: &'static str,
    /// Throughput. Of a backlog: of its draining.
    pub per_second: f64,
    /// From a publish to its confirmation.
    pub confirm_us: Option<Percentiles>,
    /// From a publish to its delivery.
    pub delivery_us: Option<Percentiles>,
    /// The server's CPU time for each event or delivery, user and system.
    pub server_cpu_us: Option<f64>,
    /// The most memory it had.
    pub server_peak_mb: Option<f64>,
    /// The memory it had before the first publish of `publish`, its topics and subscriptions made.
    pub server_empty_mb: Option<f64>,
    /// The memory it had while everything waited, in `publish` and `backlog`; there before the kill.
    pub server_waiting_mb: Option<f64>,
    /// Events of a backlog that were confirmed and did not come after the kill.
    pub lost: u64,
    /// A backlog's filling.
    pub fill_per_second: Option<f64>,
    /// How fast what `publish` published was consumed afterwards.
    pub drain_per_second: Option<f64>,
    /// The server's CPU time for each event of that.
    pub drain_cpu_us: Option<f64>,
    /// From the server's start on the backlog to its first answer.
    pub recovered_ms: Option<f64>,
    /// `per_second` of each run, if there were several; the other numbers are those of the median one.
    pub runs_per_second: Vec<f64>,
    /// Whether everything that is counted was found to be there, once and in order.
    pub verified: bool,
    /// What was found.
    pub verdict: Verdict,
}

/// Latencies, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// 99 of 100 are as fast.
    pub p99: f64,
    /// 999 of 1,000 are as fast.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Percentiles {
    /// Of nanoseconds; `None` if there are none.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e3,
        })
    }
}

/// A report with the latencies that it sums up.
#[derive(Debug, Clone)]
pub struct Run {
    /// The report.
    pub report: Report,
    /// Nanoseconds from a publish to its confirmation.
    pub confirms: Histogram<u64>,
    /// Nanoseconds from a publish to its delivery.
    pub deliveries: Histogram<u64>,
}

impl Run {
    /// The latency that the workload is about: to the delivery, where events were delivered as they were published.
    #[must_use]
    pub fn latency(&self) -> Option<(&'static str, Percentiles)> {
        let delivery = self.report.delivery_us.map(|latency| ("delivery", latency));
        delivery.or_else(|| self.report.confirm_us.map(|latency| ("confirmation", latency)))
    }
}

/// The median run: of the latency's median for the latency workload, else of the throughput. All its numbers are kept, so that
/// they belong together; a run that was not verified comes before all that were.
#[must_use]
pub fn median(mut runs: Vec<Run>) -> Option<Run> {
    let all: Vec<f64> = runs.iter().map(|run| run.report.per_second).collect();
    let bad = runs.iter().position(|run| !run.report.verified);
    let at = match bad {
        Some(at) => at,
        None => {
            runs.sort_by(|a, b| key(a).total_cmp(&key(b)));
            runs.len().checked_sub(1)? / 2
        }
    };
    let mut run = runs.swap_remove(at);
    if all.len() > 1 {
        run.report.runs_per_second = all;
    }
    Some(run)
}

fn key(run: &Run) -> f64 {
    match run.latency() {
        Some((_, latency)) if run.report.rate.is_some() => latency.p50,
        _ => run.report.per_second,
    }
}
