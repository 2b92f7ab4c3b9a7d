//! The result of a run in numbers.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::verify::Verdict;

/// A run's result. Times are in µs, memory in MB (10^6 bytes).
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `publish`, `work`, `latency`, `fan-out`, `backlog`.
    pub workload: &'static str,
    /// The workload with its parameter.
    pub title: String,
    /// The server.
    pub server: String,
    /// Its version.
    pub version: String,
    /// The durability of a confirmed event: `synced`, `written`, `memory`.
    pub level: String,
    /// Its storage and settings.
    pub notes: String,
    /// Whether the server delivers by priority.
    pub priorities_kept: bool,
    /// Events published.
    pub events: u64,
    /// The size of each event in bytes.
    pub size: usize,
    /// The lowest and the highest priority.
    pub priorities: [i32; 2],
    /// Events in flight to a consumer.
    pub prefetch: Option<usize>,
    /// Subscriptions, each with one consumer.
    pub subscriptions: u64,
    /// Publishing connections.
    pub publishers: usize,
    /// The number of topics the events are spread over.
    pub topics: usize,
    /// The most unconfirmed events per publisher.
    pub window: Option<u64>,
    /// The requested rate in events a second.
    pub rate: Option<f64>,
    /// The duration of the run.
    pub seconds: f64,
    /// The unit counted by `per_second`: `events` or `deliveries`.
    pub counts: &'static str,
    /// The throughput; for a backlog, that of draining it.
    pub per_second: f64,
    /// The latency from a publish to its confirmation.
    pub confirm_us: Option<Percentiles>,
    /// The latency from a publish to its delivery.
    pub delivery_us: Option<Percentiles>,
    /// The server's CPU time per event or delivery, user and system.
    pub server_cpu_us: Option<f64>,
    /// The server's peak memory.
    pub server_peak_mb: Option<f64>,
    /// The server's memory before the first publish of `publish`, with its topics and subscriptions created.
    pub server_empty_mb: Option<f64>,
    /// The server's memory while all events waited, in `publish` and `backlog`; for `backlog`, before the kill.
    pub server_waiting_mb: Option<f64>,
    /// Confirmed events of a backlog that did not arrive after the kill.
    pub lost: u64,
    /// The filling of a backlog.
    pub fill_per_second: Option<f64>,
    /// The rate at which the events of `publish` were consumed afterwards.
    pub drain_per_second: Option<f64>,
    /// The server's CPU time per event consumed afterwards.
    pub drain_cpu_us: Option<f64>,
    /// The time from the server's start on the backlog to its first answer.
    pub recovered_ms: Option<f64>,
    /// `per_second` of each run, if there were several; the other numbers are those of the median run.
    pub runs_per_second: Vec<f64>,
    /// Whether every counted event was verified to arrive once and in order.
    pub verified: bool,
    /// The result of the verification.
    pub verdict: Verdict,
}

/// Latencies, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The maximum.
    pub max: f64,
}

impl Percentiles {
    /// Summarizes a histogram of nanoseconds; `None` if it is empty.
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

/// A report with the latencies it summarizes.
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
    /// The main latency of the workload: to the delivery if events were delivered while they were published.
    #[must_use]
    pub fn latency(&self) -> Option<(&'static str, Percentiles)> {
        let delivery = self.report.delivery_us.map(|latency| ("delivery", latency));
        delivery.or_else(|| self.report.confirm_us.map(|latency| ("confirmation", latency)))
    }
}

/// Selects the median run, by median latency for the latency workload and by throughput otherwise. All numbers come from that
/// one run, so that they are consistent. A run that failed verification sorts before all verified ones.
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
