//! The five workloads, in terms of the driver. Each run has a server of its own with an empty directory.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;
use crate::driver::{self, Load, Measured, Pace, Progress};
use crate::event::{Events, MAX_EVENTS};
use crate::process;
use crate::report::{Percentiles, Report, Run};
use crate::target::{Opened, Publisher, Target};
use crate::verify::{Expected, Verdict};

/// A workload to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Workload {
    /// Publish and wait for confirmation.
    Publish,
    /// Publish, deliver and acknowledge at the same time.
    Work {
        /// Events in flight to the consumer.
        prefetch: usize,
    },
    /// The same at a fixed rate.
    Latency {
        /// Events a second.
        rate: f64,
    },
    /// Publish once, deliver to many.
    FanOut {
        /// The number of subscriptions.
        subscriptions: usize,
    },
    /// Publish everything, kill the server, start it again, consume everything.
    Backlog,
}

impl Workload {
    /// The name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Work { .. } => "work",
            Self::Latency { .. } => "latency",
            Self::FanOut { .. } => "fan-out",
            Self::Backlog => "backlog",
        }
    }

    /// The name with the workload's parameter.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Work { prefetch } => format!("work, prefetch {prefetch}"),
            Self::Latency { rate } => format!("latency at {rate}/s"),
            Self::FanOut { subscriptions } => format!("fan-out to {subscriptions}"),
            Self::Publish | Self::Backlog => self.name().to_owned(),
        }
    }

    /// The default number of events: enough to keep a fast server busy for a second or more.
    #[must_use]
    pub fn default_events(&self) -> u64 {
        match self {
            Self::Publish => 500_000,
            Self::Work { prefetch: 1 } => 30_000,
            Self::Work { .. } => 300_000,
            Self::Latency { rate } => (rate * 10.0).clamp(1.0, 1e9) as u64,
            Self::FanOut { subscriptions } => (1_000_000 / *subscriptions as u64).clamp(2_000, 300_000),
            Self::Backlog => 1_000_000,
        }
    }
}

/// Settings common to all workloads.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The number of events; `None` means [`Workload::default_events`].
    pub events: Option<u64>,
    /// The size of an event in bytes.
    pub size: usize,
    /// The range of event priorities.
    pub priorities: RangeInclusive<i32>,
    /// The most unconfirmed events per publisher.
    pub window: u64,
    /// The number of publishing connections.
    pub publishers: usize,
    /// Events in flight to a consumer, unless the workload sets its own number.
    pub prefetch: usize,
    /// Topics that the events are spread over evenly; each has all the subscriptions, and a consumer takes all topics of its own.
    pub topics: usize,
    /// The seed that the events are generated from.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            events: None,
            size: 256,
            priorities: 0..=6,
            window: 4096,
            publishers: 1,
            prefetch: 256,
            topics: 1,
            seed: 1,
        }
    }
}

/// An observer of the progress of a workload.
pub trait Watch {
    /// Reports that the stage `what` begins.
    fn begin(&mut self, what: &str);
    /// Reports that `done` of `total` steps are complete.
    ///
    /// # Errors
    /// The run was cancelled.
    fn advance(&mut self, done: u64, total: u64) -> Result<(), Error>;
}

/// Starts `target` with an empty directory below `dir`, runs the workload, and stops it.
///
/// # Errors
/// The server does not start, refuses something, or stalls. Lost events are not an error; the report counts them.
pub fn run(
    target: &mut dyn Target,
    workload: Workload,
    settings: &Settings,
    dir: &Path,
    watch: &mut dyn Watch,
) -> Result<Run, Error> {
    let events = Events::new(settings.size, &settings.priorities, settings.seed)?;
    let count = settings.events.unwrap_or_else(|| workload.default_events());
    if !(1..=MAX_EVENTS).contains(&count) {
        return Err(Error::Options(format!("events from 1 to {MAX_EVENTS}, so not {count}")));
    }
    if !target.spread(settings.topics) {
        return Err(Error::Options(format!(
            "{} is measured with one topic, so not {}",
            target.name(),
            settings.topics
        )));
    }
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(dir);
    let dir = dir.map_err(Error::io("cannot make a directory for the server's data"))?;
    watch.begin(&format!("{}: starting {}", workload.title(), target.name()));
    let started = target.start(dir.path());
    let result = started.and_then(|()| Bench { target, workload, settings, events, count, watch }.run());
    target.stop();
    result
}

/// Records the time of the last progress, to a tenth of a second.
struct LastMove<'a> {
    watch: &'a mut dyn Watch,
    began: Instant,
    done: u64,
    at: Duration,
}

impl Watch for LastMove<'_> {
    fn begin(&mut self, what: &str) {
        self.began = Instant::now();
        self.watch.begin(what);
    }

    fn advance(&mut self, done: u64, total: u64) -> Result<(), Error> {
        if done != self.done {
            (self.done, self.at) = (done, self.began.elapsed());
        }
        self.watch.advance(done, total)
    }
}

struct Bench<'a> {
    target: &'a mut dyn Target,
    workload: Workload,
    settings: &'a Settings,
    events: Events,
    count: u64,
    watch: &'a mut dyn Watch,
}

/// The measurements of a load, with the resources the server spent on it.
struct Spent {
    measured: Measured,
    cpu: Option<Duration>,
}

impl Bench<'_> {
    fn run(mut self) -> Result<Run, Error> {
        match self.workload {
            Workload::Publish => self.publish(),
            Workload::Work { prefetch } => self.work(1, prefetch, Pace::Window(self.settings.window)),
            Workload::Latency { rate } => self.work(1, self.settings.prefetch, Pace::Rate(rate)),
            Workload::FanOut { subscriptions } => {
                self.work(subscriptions, self.settings.prefetch, Pace::Window(self.settings.window))
            }
            Workload::Backlog => self.backlog(),
        }
    }

    /// Consumes the published events afterwards, unmeasured, to check that every confirmed event is there.
    fn publish(&mut self) -> Result<Run, Error> {
        let prefetch = self.settings.prefetch;
        self.target.prepare(1, prefetch)?;
        let empty = self.resident_mb();
        let filled = self.load("publishing", 1, 0, prefetch, Pace::Window(self.settings.window))?;
        let (memory, waiting) = (self.memory(), self.resident_mb());
        let drained = self.load("verifying", 0, 1, prefetch, Pace::Window(0))?;
        let verdict = filled.measured.verdict.and(drained.measured.verdict);
        let mut run = self.report(filled, memory, verdict, 1, None);
        run.report.server_empty_mb = empty;
        run.report.server_waiting_mb = waiting;
        run.report.drain_per_second = Some(self.count as f64 / drained.measured.elapsed.as_secs_f64());
        run.report.drain_cpu_us = drained.cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / self.count as f64);
        Ok(run)
    }

    fn work(&mut self, subscriptions: usize, prefetch: usize, pace: Pace) -> Result<Run, Error> {
        self.target.prepare(subscriptions, prefetch)?;
        let spent = self.load("publishing and consuming", 1, subscriptions, prefetch, pace)?;
        let (memory, verdict) = (self.memory(), spent.measured.verdict);
        Ok(self.report(spent, memory, verdict, subscriptions as u64, Some(prefetch)))
    }

    fn backlog(&mut self) -> Result<Run, Error> {
        let prefetch = self.settings.prefetch;
        self.target.prepare(1, prefetch)?;
        let filled = self.load("filling", 1, 0, prefetch, Pace::Window(self.settings.window))?;
        let (before, waiting) = (self.memory(), self.resident_mb());
        self.watch.begin(&format!("{}: killing and restarting {}", self.workload.title(), self.target.name()));
        let recovered = self.target.restart()?;
        let (drained, lost) = self.drain(prefetch)?;
        let memory = self.memory().max(before);
        let verdict = filled.measured.verdict.and(drained.measured.verdict);
        let drain = Spent {
            // The confirmations were measured while the backlog was filled.
            measured: Measured { confirms: filled.measured.confirms, level: filled.measured.level, ..drained.measured },
            cpu: drained.cpu,
        };
        let mut run = self.report(drain, memory, verdict, 1, Some(prefetch));
        run.report.server_waiting_mb = waiting;
        if lost > 0 {
            let came = (self.count - lost) as f64;
            run.report.lost = lost;
            run.report.per_second = came / run.report.seconds;
            run.report.server_cpu_us = None;
        }
        run.report.fill_per_second = Some(self.count as f64 / filled.measured.elapsed.as_secs_f64());
        run.report.recovered_ms = recovered.map(|time| time.as_secs_f64() * 1e3);
        Ok(run)
    }

    /// Consumes a backlog and also returns how many events never arrived. If the server lost events in the kill, the run is not
    /// aborted: it is measured up to the last delivery.
    fn drain(&mut self, prefetch: usize) -> Result<(Spent, u64), Error> {
        let mut last = LastMove { watch: &mut *self.watch, began: Instant::now(), done: 0, at: Duration::ZERO };
        let mut bench = Bench {
            target: &mut *self.target,
            workload: self.workload,
            settings: self.settings,
            events: self.events.clone(),
            count: self.count,
            watch: &mut last,
        };
        match bench.load("draining", 0, 1, prefetch, Pace::Window(0)) {
            Ok(spent) => Ok((spent, 0)),
            Err(Error::Stalled { delivered, expected, .. }) if 0 < delivered && delivered < expected => {
                let lost = expected - delivered;
                let measured = Measured {
                    elapsed: last.at,
                    confirms: driver::histogram()?,
                    deliveries: driver::histogram()?,
                    verdict: Verdict { deliveries: delivered, missing: lost, ..Verdict::default() },
                    level: None,
                };
                Ok((Spent { measured, cpu: None }, lost))
            }
            Err(error) => Err(error),
        }
    }

    /// Publishes if `publish` is not 0, and consumes from `subscriptions` subscriptions.
    fn load(
        &mut self,
        what: &str,
        publish: usize,
        subscriptions: usize,
        prefetch: usize,
        pace: Pace,
    ) -> Result<Spent, Error> {
        self.watch.begin(&format!("{}: {what}", self.workload.title()));
        let publishers: Vec<Opened<dyn Publisher>> =
            (0..publish * self.settings.publishers).map(|_| self.target.publisher()).collect::<Result<_, _>>()?;
        let order = self.target.order();
        let expected = if publishers.is_empty() { Expected::Waiting(order) } else { Expected::WhilePublishing(order) };
        let subscriptions = (0..subscriptions)
            .map(|subscription| Ok(vec![self.target.consumer(subscription, prefetch)?]))
            .collect::<Result<_, Error>>()?;
        let (count, published_by, topics) = (self.count, self.settings.publishers, self.settings.topics);
        let events = &self.events;
        let load = Load { events, count, publishers, published_by, subscriptions, pace, expected, topics };
        let before = self.target.pid().and_then(process::cpu);
        let watch = &mut *self.watch;
        let progress: Progress<'_> = &mut |done, total| watch.advance(done, total);
        let measured = driver::run(load, progress)?;
        let after = self.target.pid().and_then(process::cpu);
        let cpu = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        Ok(Spent { measured, cpu })
    }

    fn memory(&self) -> Option<u64> {
        self.target.pid().and_then(process::peak_memory)
    }

    fn resident_mb(&self) -> Option<f64> {
        self.target.pid().and_then(process::resident_memory).map(|bytes| bytes as f64 / 1e6)
    }

    fn report(
        &self,
        spent: Spent,
        memory: Option<u64>,
        verdict: Verdict,
        deliveries_per_event: u64,
        prefetch: Option<usize>,
    ) -> Run {
        let Spent { measured, cpu } = spent;
        let counted = self.count * deliveries_per_event;
        let report = Report {
            workload: self.workload.name(),
            title: match self.settings.topics {
                1 => self.workload.title(),
                many => format!("{}, {many} topics", self.workload.title()),
            },
            server: self.target.name().to_owned(),
            version: self.target.version(),
            level: measured.level.unwrap_or_else(|| self.target.level()),
            notes: self.target.notes(),
            priorities_kept: self.target.order() == crate::target::Order::Priority,
            events: self.count,
            size: self.settings.size,
            priorities: [*self.settings.priorities.start(), *self.settings.priorities.end()],
            prefetch,
            subscriptions: deliveries_per_event,
            publishers: self.settings.publishers,
            topics: self.settings.topics,
            window: (!matches!(self.workload, Workload::Latency { .. })).then_some(self.settings.window),
            rate: match self.workload {
                Workload::Latency { rate } => Some(rate),
                _ => None,
            },
            seconds: measured.elapsed.as_secs_f64(),
            counts: if deliveries_per_event > 1 { "deliveries" } else { "events" },
            per_second: counted as f64 / measured.elapsed.as_secs_f64(),
            confirm_us: Percentiles::of(&measured.confirms),
            delivery_us: Percentiles::of(&measured.deliveries),
            server_cpu_us: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / counted as f64),
            server_peak_mb: memory.map(|bytes| bytes as f64 / 1e6),
            server_empty_mb: None,
            server_waiting_mb: None,
            lost: 0,
            fill_per_second: None,
            drain_per_second: None,
            drain_cpu_us: None,
            recovered_ms: None,
            runs_per_second: Vec::new(),
            verified: verdict.is_good(),
            verdict,
        };
        Run { report, confirms: measured.confirms, deliveries: measured.deliveries }
    }
}
