//! The growth of cost: the same load with increasing numbers of topics, publishers, bytes per event, and waiting events.

use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::report::{Report, median};
use crate::target::Target;
use crate::workload::{self, Settings, Watch, Workload};

/// The number of events where only topics or publishers vary.
const EVENTS: u64 = 100_000;

/// The total size of all events where their size varies: enough for about a second, and for several of the largest events.
const BYTES: u64 = 192 << 20;

/// The size of an event just under a mebibyte: with what deliveries can add, it fits the default `max_output_line_bytes`.
const LARGEST: usize = (1 << 20) - (16 << 10);

/// The quantity that varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// Topics, each with a durable subscription.
    Topics,
    /// Publishing connections.
    Publishers,
    /// Bytes of an event.
    Size,
    /// Events waiting before the first is consumed.
    Waiting,
}

/// A point on a curve, before it is measured.
#[derive(Debug, Clone)]
pub struct Point {
    /// The curve.
    pub dimension: Dimension,
    /// The value of the varying quantity.
    pub value: u64,
    settings: Settings,
}

/// A measured point on a curve.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `growth`.
    pub workload: &'static str,
    /// The quantity that varies.
    pub dimension: Dimension,
    /// The value of the varying quantity.
    pub value: u64,
    /// The run that publishes, delivers and acknowledges concurrently; absent where the number of waiting events varies.
    pub work: Option<Report>,
    /// The run that publishes first and consumes afterwards.
    pub publish: Report,
    /// The growth of the server's memory while unconsumed events were published, in bytes per event.
    pub bytes_each: Option<f64>,
}

impl Measured {
    /// Whether all expected events arrived correctly.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.publish.verified && self.work.as_ref().is_none_or(|work| work.verified)
    }
}

/// All points, curve by curve. `base` holds the fixed settings, and the maximum number of events where that does not vary.
#[must_use]
pub fn points(base: &Settings, waiting: &[u64]) -> Vec<Point> {
    let most = base.events.unwrap_or(u64::MAX);
    let events = Some(EVENTS.min(most));
    let point = |dimension, value, settings| Point { dimension, value, settings };
    let topics = [1, 10, 100, 1000, 10_000].map(|topics| {
        let settings = Settings { topics, events, ..base.clone() };
        point(Dimension::Topics, topics as u64, settings)
    });
    let publishers = [1, 10, 100, 1000].map(|publishers| {
        // The total number in flight stays the same, so that only the number of connections grows.
        let window = (base.window / publishers as u64).max(1);
        let settings = Settings { publishers, window, events, ..base.clone() };
        point(Dimension::Publishers, publishers as u64, settings)
    });
    let sizes = [64, 256, 1 << 10, 16 << 10, 128 << 10, LARGEST].map(|size| {
        let events = Some((BYTES / size as u64).min(2 * EVENTS).min(most));
        point(Dimension::Size, size as u64, Settings { size, events, ..base.clone() })
    });
    let waiting = waiting.iter().map(|count| {
        let settings = Settings { events: Some(*count), ..base.clone() };
        point(Dimension::Waiting, *count, settings)
    });
    topics.into_iter().chain(publishers).chain(sizes).chain(waiting).collect()
}

/// Measures a point `runs` times, each on a fresh server, and keeps the median.
///
/// # Errors
/// Those of [`workload::run`].
pub fn run(
    target: &mut dyn Target,
    point: &Point,
    runs: u16,
    dir: &Path,
    watch: &mut dyn Watch,
) -> Result<Measured, Error> {
    let Point { dimension, value, settings } = point;
    let mut one = |workload| {
        let all = (0..runs).map(|_| workload::run(target, workload, settings, dir, watch));
        let run = median(all.collect::<Result<_, _>>()?).map(|run| run.report);
        run.ok_or_else(|| Error::Options("nothing is measured in no run".to_owned()))
    };
    let work = match dimension {
        Dimension::Waiting => None,
        _ => Some(one(Workload::Work { prefetch: settings.prefetch })?),
    };
    let publish = one(Workload::Publish)?;
    let grown = publish.server_waiting_mb.zip(publish.server_empty_mb).map(|(after, before)| (after - before).max(0.0));
    let bytes_each = grown.map(|mb| mb * 1e6 / publish.events as f64);
    Ok(Measured { workload: "growth", dimension: *dimension, value: *value, work, publish, bytes_each })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_varies_one_thing_within_what_one_run_can_do() {
        let base = Settings::default();
        let points = points(&base, &[1000, 10_000_000]);
        assert_eq!(points.len(), 5 + 4 + 6 + 2);
        for Point { dimension, value, settings } in &points {
            let found = match dimension {
                Dimension::Topics => settings.topics as u64,
                Dimension::Publishers => settings.publishers as u64,
                Dimension::Size => settings.size as u64,
                Dimension::Waiting => settings.events.unwrap(),
            };
            assert_eq!(found, *value, "{dimension:?}");
            let same = |now: usize, was: usize, varies| now == was || *dimension == varies;
            assert!(same(settings.topics, base.topics, Dimension::Topics), "{settings:?}");
            assert!(same(settings.publishers, base.publishers, Dimension::Publishers), "{settings:?}");
            assert!(same(settings.size, base.size, Dimension::Size), "{settings:?}");
            assert!(settings.publishers as u64 * settings.window <= base.window, "{settings:?}");
            assert!(crate::event::Events::new(settings.size, &settings.priorities, 1).is_ok());
        }
    }

    #[test]
    fn fewer_events_can_be_asked_for() {
        let base = Settings { events: Some(500), ..Settings::default() };
        assert!(points(&base, &[]).iter().all(|point| point.settings.events.unwrap() <= 500));
    }
}
