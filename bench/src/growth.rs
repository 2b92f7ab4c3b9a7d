//! How cost grows: the same load with ever more topics, publishers, bytes of an event, and events that wait.

use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::report::{Report, median};
use crate::target::Target;
use crate::workload::{self, Settings, Watch, Workload};

/// Events where only topics or publishers vary.
const EVENTS: u64 = 100_000;

/// Bytes of all events where their size varies: enough for a second or so, and more than the largest events need to be some.
const BYTES: u64 = 192 << 20;

/// An event of all but a mebibyte: with the command before it, its line is within `max_line_bytes` as it is by default.
const LARGEST: usize = (1 << 20) - 64;

/// What varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// Topics, each with a durable subscription.
    Topics,
    /// Publishing connections.
    Publishers,
    /// Bytes of an event.
    Size,
    /// Events that wait before the first is consumed.
    Waiting,
}

/// A place on a curve, before it is measured.
#[derive(Debug, Clone)]
pub struct Point {
    /// The curve.
    pub dimension: Dimension,
    /// How many of it.
    pub value: u64,
    settings: Settings,
}

/// A place on a curve.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `growth`.
    pub workload: &'static str,
    /// What varies.
    pub dimension: Dimension,
    /// How many of it.
    pub value: u64,
    /// Published, delivered and acknowledged at the same time; not where the number of waiting events varies.
    pub work: Option<Report>,
    /// Published, and consumed afterwards.
    pub publish: Report,
    /// What the server's memory grew by while events were published that nobody consumed, in bytes for each of them.
    pub bytes_each: Option<f64>,
}

impl Measured {
    /// Whether all events came that should, as they should.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.publish.verified && self.work.as_ref().is_none_or(|work| work.verified)
    }
}

/// All points, curve by curve. `base` says what does not vary, and how many events there are at most where they do not vary.
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
        // The same number in flight altogether, so that only the connections are more.
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

/// Measures a point `runs` times, each on a server of its own, and keeps the median.
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
