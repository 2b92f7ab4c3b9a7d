//! The output of `herald bench`: progress while it runs, and tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::growth::{Dimension, Measured};
use bench::idle::Idle;
use bench::report::{Percentiles, Report, Run};
use bench::workload::{Settings, Watch};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{message, stderr_is_terminal, table};

/// The interval between progress lines where standard error is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// Progress on standard error: a bar on a terminal, otherwise a line every few seconds.
pub(super) struct Shown {
    bar: Option<ProgressBar>,
    what: String,
    last: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Shown {
    /// Setting `interrupted` ends the measurement at its next progress.
    pub(super) fn new(interrupted: Arc<AtomicBool>) -> Self {
        let bar = stderr_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {msg:44} {bar:30} {percent:>3} %  {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, what: String::new(), last: Instant::now(), interrupted }
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Shown {
    fn begin(&mut self, what: &str) {
        what.clone_into(&mut self.what);
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_message(what.to_owned());
        }
    }

    fn advance(&mut self, done: u64, total: u64) -> Result<(), bench::Error> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(bench::Error::Interrupted);
        }
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            None if self.last.elapsed() >= LINE => {
                self.last = Instant::now();
                message(&format!("{}: {} %", self.what, done * 100 / total.max(1)));
            }
            None => {}
        }
        Ok(())
    }
}

/// The line above the table: what all results have in common.
pub(super) fn headline(settings: &Settings, runs: &[Run]) -> String {
    let server = runs.first().map_or_else(String::new, |run| {
        let Report { version, notes, .. } = &run.report;
        format!("Herald {version}, {notes}; ")
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{server}events of {} bytes, priorities {} to {}; client and server on {cores} core{}",
        settings.size,
        settings.priorities.start(),
        settings.priorities.end(),
        if cores == 1 { "" } else { "s" }
    )
}

/// The table, and below it the extra lines of a backlog.
pub(super) fn results(runs: &[Run]) -> String {
    let titles = ["WORKLOAD", "LEVEL", "LATENCY OF", "PER SECOND", "P50 MS", "P99 MS", "P99.9 MS", "MAX MS"];
    let mut rows = vec![titles.into_iter().chain(["CPU µS", "PEAK MB", "VERIFIED"]).map(str::to_owned).collect()];
    for run in runs {
        rows.extend(rows_of(&run.report));
    }
    let mut out = table(&rows, 3);
    for report in runs.iter().map(|run| &run.report) {
        if let Some(fill) = report.fill_per_second {
            let recovered = match report.recovered_ms {
                Some(ms) => format!("killed, and up again in {ms:.0} ms"),
                None => "not restarted, since it runs elsewhere".to_owned(),
            };
            let waiting =
                report.server_waiting_mb.map_or_else(String::new, |mb| format!(" ({mb:.0} MB while waiting)"));
            let lost =
                if report.lost > 0 { format!("; LOST {}", thousands(report.lost as f64)) } else { String::new() };
            out.push_str(&format!(
                "\nbacklog of {}, {}: filled at {} events/s{waiting}; {recovered}; drained at {} events/s{lost}\n",
                thousands(report.events as f64),
                report.level,
                thousands(fill),
                thousands(report.per_second)
            ));
        }
    }
    out.push_str(
        "\nCPU µS: the server's CPU time for each event (fan-out: delivery). PEAK MB: the most memory it had.\n",
    );
    out
}

/// The line about the memory that idle connections take.
pub(super) fn idle_result(idle: &Idle) -> String {
    format!(
        "idle: {} connections, {} bytes of the server's memory each ({:.0} MB without them, {:.0} MB with them); \
         what the kernel keeps for sockets and what the client takes is not counted",
        thousands(idle.connections as f64),
        thousands(idle.bytes_each),
        idle.before_mb,
        idle.after_mb
    )
}

/// One table for each thing that varied.
pub(super) fn curves(all: &[Measured]) -> String {
    let of = |report: &Report| format!("Herald {}, {}, {}", report.version, report.notes, report.level);
    let mut out = all.first().map(|one| of(&one.publish)).unwrap_or_default();
    out.push_str(
        "\n\nWORK: published, delivered and acknowledged at the same time. PUBLISH, DRAIN: all is published, and consumed afterwards.\n\
         µS: the server's CPU time for each event. WAITING: its memory before the drain, and what it grew by for each event.\n",
    );
    for dimension in [Dimension::Topics, Dimension::Publishers, Dimension::Size, Dimension::Waiting] {
        let name = match dimension {
            Dimension::Topics => "TOPICS",
            Dimension::Publishers => "PUBLISHERS",
            Dimension::Size => "EVENT BYTES",
            Dimension::Waiting => "EVENTS WAITING",
        };
        let titles =
            ["EVENTS", "WORK/S", "µS", "PUBLISH/S", "µS", "DRAIN/S", "µS", "WAITING MB", "BYTES EACH", "PEAK MB"];
        let titles = [name].into_iter().chain(titles).chain(["VERIFIED"]);
        let mut rows = vec![titles.map(str::to_owned).collect::<Vec<_>>()];
        rows.extend(all.iter().filter(|one| one.dimension == dimension).map(point));
        if rows.len() > 1 {
            out.push('\n');
            out.push_str(&table(&rows, 0));
        }
    }
    out
}

fn point(one: &Measured) -> Vec<String> {
    let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), thousands);
    let Measured { publish, work, .. } = one;
    // The kernel counts CPU time in ticks of 10 ms: a few of them are too coarse to divide by the events.
    let micros = |number: Option<f64>| {
        let number = number.filter(|number| number * publish.events as f64 >= 50_000.0);
        number.map_or_else(|| "-".to_owned(), |n| format!("{n:.2}"))
    };
    let peaks = [publish.server_peak_mb, work.as_ref().and_then(|work| work.server_peak_mb)];
    vec![
        thousands(one.value as f64),
        thousands(publish.events as f64),
        number(work.as_ref().map(|work| work.per_second)),
        micros(work.as_ref().and_then(|work| work.server_cpu_us)),
        thousands(publish.per_second),
        micros(publish.server_cpu_us),
        number(publish.drain_per_second),
        micros(publish.drain_cpu_us),
        number(publish.server_waiting_mb),
        number(one.bytes_each),
        number(peaks.into_iter().flatten().reduce(f64::max)),
        if one.is_verified() { "yes" } else { "NO" }.to_owned(),
    ]
}

/// One row for each kind of latency; the first row has everything else.
fn rows_of(report: &Report) -> Vec<Vec<String>> {
    let verified = if report.verified { "yes" } else { "NO" };
    let latencies = [("confirmation", report.confirm_us), ("delivery", report.delivery_us)];
    let present = latencies.into_iter().filter_map(|(name, latency)| Some((name, latency?)));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (name, Percentiles { p50, p99, p999, max }) in present {
        let first = rows.is_empty();
        let cell = |text: String| if first { text } else { String::new() };
        let optional = |number: Option<f64>, digits: usize| number.map_or("-".to_owned(), |n| format!("{n:.digits$}"));
        let mut row = vec![cell(report.title.clone()), cell(report.level.clone()), name.to_owned()];
        row.push(cell(thousands(report.per_second)));
        row.extend([p50, p99, p999, max].map(|us| format!("{:.2}", us / 1e3)));
        row.push(cell(optional(report.server_cpu_us, 2)));
        row.push(cell(optional(report.server_peak_mb, 0)));
        row.push(cell(verified.to_owned()));
        rows.push(row);
    }
    rows
}

/// `1,234,567`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_can_be_read() {
        assert_eq!([0.4, 999.0, 1000.0, 1_234_567.0].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
