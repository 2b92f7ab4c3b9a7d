//! Herald's goals relative to the other servers, checked against one run of the comparison.

use std::fmt::Write as _;

use bench::report::Run;

/// Herald as it is without configuration.
const SYNCED: &str = "herald (synced)";
const WRITTEN: &str = "herald (written)";
const REDIS_ALWAYS: &str = "redis always (synced)";
const REDIS_EVERYSEC: &str = "redis everysec (written)";
const JETSTREAM: &str = "jetstream (written)";
const JETSTREAM_ALWAYS: &str = "jetstream sync always (synced)";
const QUORUM: &str = "rabbitmq quorum (synced)";
const SLED: &str = "herald sled (synced)";
const SQLITE: &str = "herald sqlite (synced)";

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    goal: String,
    wanted: String,
    /// `None`: a contestant or a workload that it needs was not run, or failed.
    found: Option<(String, bool)>,
}

/// The runs, by contestant and workload, both as they are called on the command line.
pub(crate) struct Results<'a>(pub(crate) Vec<(&'a str, &'a str, &'a Run)>);

impl Results<'_> {
    fn run(&self, who: &str, workload: &str) -> Option<&Run> {
        self.0.iter().find(|(name, what, _)| *name == who && *what == workload).map(|(.., run)| *run)
    }

    fn value(&self, who: &str, workload: &str, of: Value) -> Option<f64> {
        self.run(who, workload).and_then(of)
    }

    /// The smallest or the largest value that anyone but Herald has.
    fn best(&self, workload: &str, of: Value, pick: fn(f64, f64) -> f64) -> Option<f64> {
        let peers = self.0.iter().filter(|(name, what, _)| *what == workload && !name.starts_with("herald"));
        peers.filter_map(|(.., run)| of(run)).reduce(pick)
    }
}

type Value = fn(&Run) -> Option<f64>;

fn speed(run: &Run) -> Option<f64> {
    Some(run.report.per_second)
}

fn cpu(run: &Run) -> Option<f64> {
    run.report.server_cpu_us
}

fn p50(run: &Run) -> Option<f64> {
    run.latency().map(|(_, latency)| latency.p50)
}

fn p99(run: &Run) -> Option<f64> {
    run.latency().map(|(_, latency)| latency.p99)
}

/// `value` is to be at least `times` as much as `base`.
fn at_least(goal: &str, times: f64, value: Option<f64>, base: Option<f64>) -> Goal {
    let ratio = value.zip(base).map(|(value, base)| value / base);
    let found = ratio.map(|ratio| (format!("{ratio:.2}×"), ratio >= times));
    Goal { goal: goal.to_owned(), wanted: format!("at least {times}×"), found }
}

/// `value` is to be at most `times` as much as `base`.
fn at_most(goal: &str, times: f64, value: Option<f64>, base: Option<f64>) -> Goal {
    let ratio = value.zip(base).map(|(value, base)| value / base);
    let found = ratio.map(|ratio| (format!("{ratio:.2}×"), ratio <= times));
    Goal { goal: goal.to_owned(), wanted: format!("at most {times}×"), found }
}

/// `value` is to be under `limit`.
fn under(goal: &str, limit: f64, unit: &str, value: Option<f64>) -> Goal {
    let found = value.map(|value| (format!("{value:.1} {unit}"), value < limit));
    Goal { goal: goal.to_owned(), wanted: format!("under {limit} {unit}"), found }
}

/// All goals in the order of docs/performance.md.
pub(crate) fn goals(all: &Results<'_>) -> Vec<Goal> {
    let of = |who, workload, of: Value| all.value(who, workload, of);
    let mut out = Vec::new();
    for (workload, base, times) in [
        ("publish", REDIS_ALWAYS, 3.0),
        ("publish", JETSTREAM, 1.5),
        ("publish", JETSTREAM_ALWAYS, 50.0),
        ("work-256", REDIS_ALWAYS, 3.0),
        ("work-256", JETSTREAM, 2.0),
        ("work-256", REDIS_EVERYSEC, 1.5),
        ("work-256", QUORUM, 10.0),
    ] {
        let goal = format!("{workload}: {SYNCED} to {base}");
        out.push(at_least(&goal, times, of(SYNCED, workload, speed), of(base, workload, speed)));
    }
    let goal = format!("publish: {WRITTEN} to {REDIS_EVERYSEC}");
    out.push(at_least(&goal, 1.0, of(WRITTEN, "publish", speed), of(REDIS_EVERYSEC, "publish", speed)));
    let mine = of(SYNCED, "work-1", speed);
    out.push(at_least("work-1: Herald, synced, to the best peer", 1.0, mine, all.best("work-1", speed, f64::max)));
    for (name, value) in [("p50", p50 as Value), ("p99", p99 as Value)] {
        let goal = format!("latency, {name}: {WRITTEN} to the best peer");
        out.push(at_most(&goal, 1.0, of(WRITTEN, "latency", value), all.best("latency", value, f64::min)));
    }
    let goal = format!("latency, p99: {SYNCED} to {REDIS_ALWAYS}");
    out.push(at_most(&goal, 1.0, of(SYNCED, "latency", p99), of(REDIS_ALWAYS, "latency", p99)));
    // One sync takes about 0.24 ms on the machine that the goals were written for.
    let more = of(SYNCED, "latency", p50).zip(of(WRITTEN, "latency", p50)).map(|(synced, written)| synced - written);
    out.push(under("latency, p50: what synced takes longer than written", 0.24, "ms", more.map(|us| us / 1e3)));
    for workload in ["fan-out-10", "fan-out-100"] {
        let goal = format!("{workload}: Herald, synced, to the best peer");
        out.push(at_least(&goal, 2.0, of(SYNCED, workload, speed), all.best(workload, speed, f64::max)));
    }
    // A pointer for each event and subscription alone would be 16 MB here, an event for each of them 512 MB.
    let peak: Value = |run| run.report.server_peak_mb;
    out.push(under("fan-out-1000: the most memory", 150.0, "MB", of(SYNCED, "fan-out-1000", peak)));
    out.extend(backlog(all));
    let best = all.best("work-256", cpu, f64::min);
    out.push(at_most("work-256: the server's CPU to the best peer's", 0.5, of(SYNCED, "work-256", cpu), best));
    // What the two reach on a quiet machine is 0.97 and 1.8 times Redis at `publish`, 0.43 and 0.76 times at `work`, and of
    // json-log 0.41 and 0.76, 0.17 and 0.31.
    for (storage, publish, work) in [(SLED, [0.8, 0.3], [0.35, 0.15]), (SQLITE, [1.5, 0.6], [0.6, 0.25])] {
        for (workload, times) in [("publish", publish), ("work-256", work)] {
            for (base, times) in [REDIS_ALWAYS, SYNCED].into_iter().zip(times) {
                let goal = format!("{workload}: {storage} to {base}");
                out.push(at_least(&goal, times, of(storage, workload, speed), of(base, workload, speed)));
            }
        }
        let goal = format!("backlog: drain, {storage} to its own work-256");
        out.push(at_least(&goal, 0.8, of(storage, "backlog", speed), of(storage, "work-256", speed)));
    }
    out
}

fn backlog(all: &Results<'_>) -> Vec<Goal> {
    // The goals are for a million events: fewer say nothing of them.
    let whole = all.run(SYNCED, "backlog").filter(|run| run.report.events >= 1_000_000);
    let of = |what: Value| whole.and_then(what);
    let drain = of(speed);
    vec![
        under("backlog: memory while it waits", 200.0, "MB", of(|run| run.report.server_waiting_mb)),
        under("backlog: the most memory", 200.0, "MB", of(|run| run.report.server_peak_mb)),
        under("backlog: up again", 2.0, "s", of(|run| Some(run.report.recovered_ms? / 1e3))),
        at_least("backlog: drain to work-256", 0.8, drain, all.value(SYNCED, "work-256", speed)),
        at_least("backlog: drain to the best peer", 1.0, drain, all.best("backlog", speed, f64::max)),
    ]
}

/// The table in Markdown.
pub(crate) fn write(goals: &[Goal]) -> String {
    let mut out = String::from("\n| goal | wanted | found | met |\n| --- | --- | --- | --- |\n");
    for Goal { goal, wanted, found } in goals {
        let (found, met) = match found {
            Some((found, true)) => (found.as_str(), "yes"),
            Some((found, false)) => (found.as_str(), "**no**"),
            None => ("not measured", "?"),
        };
        // Writing to memory does not fail.
        let _ = writeln!(out, "| {goal} | {wanted} | {found} | {met} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(goal: &Goal) -> String {
        write(std::slice::from_ref(goal)).lines().last().unwrap().to_owned()
    }

    #[test]
    fn a_ratio_is_held_against_its_goal_and_the_limit_itself_is_met() {
        assert_eq!(line(&at_least("g", 3.0, Some(300.0), Some(100.0))), "| g | at least 3× | 3.00× | yes |");
        assert_eq!(line(&at_least("g", 3.0, Some(299.0), Some(100.0))), "| g | at least 3× | 2.99× | **no** |");
        assert_eq!(line(&at_most("g", 0.5, Some(2.0), Some(4.0))), "| g | at most 0.5× | 0.50× | yes |");
        assert_eq!(line(&at_most("g", 0.5, Some(3.0), Some(4.0))), "| g | at most 0.5× | 0.75× | **no** |");
        assert_eq!(line(&under("g", 2.0, "s", Some(2.0))), "| g | under 2 s | 2.0 s | **no** |");
        assert_eq!(line(&under("g", 2.0, "s", Some(0.5))), "| g | under 2 s | 0.5 s | yes |");
    }

    #[test]
    fn the_goals_name_herald_as_the_comparison_does() {
        // Any program will do: nothing is started.
        let (all, _) = crate::contestants::find(std::path::Path::new("/bin/sh"), &[]);
        let names: Vec<&str> = all.iter().map(crate::contestants::Contestant::name).collect();
        for name in [SYNCED, WRITTEN, SLED, SQLITE] {
            assert!(names.contains(&name), "{name} is none of {names:?}");
        }
    }

    #[test]
    fn what_was_not_run_is_neither_met_nor_missed() {
        assert_eq!(line(&at_least("g", 3.0, None, Some(1.0))), "| g | at least 3× | not measured | ? |");
        let all = goals(&Results(Vec::new()));
        assert!(!all.is_empty() && all.iter().all(|goal| goal.found.is_none()), "{all:?}");
    }
}
