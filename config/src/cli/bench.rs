//! `herald bench`: loads a broker and prints its speed at each durability. The `bench` crate does the work.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::exit::Status;
use super::number::integer;

/// Whether this build has the command.
pub(super) const BUILT: bool = cfg!(all(unix, feature = "bench", feature = "tcp"));

/// Load a broker and print throughput, latency, CPU and memory
///
/// Starts a broker of its own for each run, on an empty temporary directory, and verifies what it counts: every event exactly
/// once in each subscription, and in order.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald bench                                   all workloads, a few minutes\n  \
                        herald bench publish work --runs 5             the median of five runs\n  \
                        herald bench work --prefetch 1,16,256 --durability always,interval\n  \
                        herald bench latency --rate 5000 --plot latency.svg\n  \
                        herald bench fan-out --subscriptions 1,10,100,1000 --json\n  \
                        herald bench growth --json                     how cost grows with topics, publishers, sizes, backlogs\n  \
                        herald bench publish --server 127.0.0.1:8000   a broker that runs already\n\n\
                        Exit status: 0 done and verified, 1 failed or events were lost, doubled or out of order.")]
pub(super) struct Args {
    /// What to measure; all but idle and growth if none is named
    #[arg(value_enum)]
    workloads: Vec<Kind>,
    /// Events of each run [default: what takes about a second or more]
    #[arg(long, value_name = "N", value_parser = integer(1_u64..=1_000_000_000))]
    events: Option<u64>,
    /// Bytes of an event, the whole JSON document
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = integer(0..=usize::MAX))]
    size: usize,
    /// Random priorities from the first to the second
    #[arg(long, value_name = "LOW..HIGH", default_value = "0..6", value_parser = range, allow_hyphen_values = true)]
    priorities: RangeInclusive<i32>,
    /// When a publish is confirmed: always (synced), interval (written), never (memory); a list runs each
    #[arg(long, value_name = "LEVEL", default_value = "always", value_delimiter = ',', value_parser = ["always", "interval", "never"])]
    durability: Vec<String>,
    /// The storage, as in storage.kind [default: the one a broker takes without configuration]
    #[arg(long, value_name = "KIND")]
    storage: Option<String>,
    /// Events in flight to a consumer; `work` runs each of a list, the others take the last
    #[arg(long, value_name = "N", default_value = "1,256", value_delimiter = ',', value_parser = integer(1_u16..=u16::MAX))]
    prefetch: Vec<u16>,
    /// Events a second of `latency`
    #[arg(long, value_name = "N", default_value = "5000", value_parser = rate)]
    rate: f64,
    /// Subscriptions of `fan-out`, each with a connection; a list runs each
    #[arg(long, value_name = "N", default_value = "1,10,100", value_delimiter = ',', value_parser = integer(1_u16..=10_000))]
    subscriptions: Vec<u16>,
    /// Connections of `idle`; fewer if the limit of open files does not allow as many
    #[arg(long, value_name = "N", default_value = "10000", value_parser = integer(1_u64..=1_000_000))]
    connections: u64,
    /// Topics that events are spread over, each with all the subscriptions
    #[arg(long, value_name = "N", default_value = "1", value_parser = integer(1_u32..=100_000))]
    topics: u32,
    /// Events that wait in `growth`; a list measures each, such as 1000000,10000000, which takes minutes
    #[arg(long, value_name = "N", default_value = "1000,10000,100000,1000000", value_delimiter = ',', value_parser = integer(1_u64..=1_000_000_000))]
    waiting: Vec<u64>,
    /// Publishing connections
    #[arg(long, value_name = "N", default_value = "1", value_parser = integer(1_u16..=1000))]
    publishers: u16,
    /// The most events that a publisher may have unconfirmed
    #[arg(long, value_name = "N", default_value = "4096", value_parser = integer(1_u64..=1_000_000))]
    window: u64,
    /// Run each this often, and print the median run
    #[arg(long, value_name = "N", default_value = "1", value_parser = integer(1_u16..=1000))]
    runs: u16,
    /// Where the temporary data directory is made; its disk is what is measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Set a key of the broker's configuration; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Load a broker that runs already, at host:port; its subscriptions are removed at the end
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["storage", "durability", "set", "dir"])]
    server: Option<String>,
    /// That broker's authentication token
    #[arg(long, value_name = "TOKEN", requires = "server")]
    token: Option<String>,
    /// That broker's process id, if it is on this machine, for its CPU and memory
    #[arg(long, value_name = "PID", requires = "server")]
    pid: Option<u32>,
    /// Print the results as JSON lines
    #[arg(long)]
    json: bool,
    /// Write latency over percentile as an SVG, of `latency` if it was run
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// A workload by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Publish and be confirmed
    Publish,
    /// Publish, deliver and acknowledge at the same time
    Work,
    /// The same at a fixed rate, timed from when each event was to be sent
    Latency,
    /// Publish once, deliver to many subscriptions
    FanOut,
    /// Publish everything, kill the broker, start it again, consume everything
    Backlog,
    /// Open connections that do nothing, and look at the broker's memory; only if it is named
    Idle,
    /// Publish and work with ever more topics, publishers, bytes of an event, events that wait; only if it is named
    Growth,
}

fn range(text: &str) -> Result<RangeInclusive<i32>, String> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let number =
        |text: &str| text.trim_start_matches('=').parse::<i32>().map_err(|_| format!("{text:?} is no priority"));
    let (low, high) = (number(low)?, number(high)?);
    if low <= high { Ok(low..=high) } else { Err(format!("{low} is above {high}")) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.01..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| "expected events a second, from 0.01 to 10000000".to_owned())
}

#[cfg(not(all(unix, feature = "bench", feature = "tcp")))]
pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let _nothing_of_it_is_used = args;
    Err(super::exit::UsageError("this build has no bench: rebuild with --features bench,tcp".to_owned()).into())
}

#[cfg(all(unix, feature = "bench", feature = "tcp"))]
pub(super) use enabled::run;

#[cfg(all(unix, feature = "bench", feature = "tcp"))]
mod enabled {
    use std::net::ToSocketAddrs as _;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bench::herald::{Herald, Place};
    use bench::plot::{self, Curve};
    use bench::process::is_in_memory;
    use bench::report::{Run, median};
    use bench::workload::{self, Settings, Workload};
    use bench::{growth, idle};

    use super::{Args, Kind, Status};
    use crate::cli::bench_output::{Shown, curves, headline, idle_result, results};
    use crate::cli::exit::{DONE, FAILED, UsageError};
    use crate::output::{Output, message, print};
    use crate::signals::Signals;

    pub(in crate::cli) async fn run(args: Args) -> anyhow::Result<Status> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let mut signals = Signals::stopping()?;
        let mut measuring = tokio::task::spawn_blocking({
            let interrupted = Arc::clone(&interrupted);
            move || measure(&args, interrupted)
        });
        tokio::select! {
            result = &mut measuring => return result?,
            _ = signals.stop() => interrupted.store(true, Ordering::Relaxed),
        }
        // The measurement ends its broker and removes its data first; a second signal does not wait for that.
        tokio::select! {
            result = measuring => result?,
            (_, status) = signals.stop() => std::process::exit(i32::from(status)),
        }
    }

    /// Runs every workload, one after the other. Blocks.
    fn measure(args: &Args, interrupted: Arc<AtomicBool>) -> anyhow::Result<Status> {
        let settings = Settings {
            events: args.events,
            size: args.size,
            priorities: args.priorities.clone(),
            window: args.window,
            publishers: usize::from(args.publishers),
            topics: usize::try_from(args.topics)?,
            prefetch: args.prefetch.last().copied().map_or(256, usize::from),
            ..Settings::default()
        };
        let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let mut fresh = brokers(args, &dir, &[])?;
        let mut shown = Shown::new(interrupted);
        let mut runs: Vec<Run> = Vec::new();
        let mut output = Output::stdout();
        for workload in workloads(args) {
            for broker in &mut fresh {
                let mut same = Vec::new();
                for _ in 0..args.runs {
                    let run = workload::run(broker, workload, &settings, &dir, &mut shown);
                    same.push(run.map_err(explain)?);
                }
                let Some(run) = median(same) else { continue };
                if args.json {
                    // Each result is printed at once: the next one may take minutes.
                    output.line(&serde_json::to_string(&run.report)?)?;
                    output.flush()?;
                }
                runs.push(run);
            }
        }
        if args.workloads.contains(&Kind::Idle)
            && let limit = format!("transports.tcp.max_connections={}", args.connections + 16)
            && let Some(broker) = brokers(args, &dir, &[limit])?.first_mut()
        {
            let found = idle::run(broker, args.connections, &dir, &mut shown).map_err(explain)?;
            shown.end();
            if found.connections < found.wanted {
                message(&format!(
                    "herald: the limit of open files (ulimit -Hn) allows {} connections and not {}",
                    found.connections, found.wanted
                ));
            }
            output.line(&if args.json { serde_json::to_string(&found)? } else { idle_result(&found) })?;
            output.flush()?;
        }
        let mut grown_well = true;
        if args.workloads.contains(&Kind::Growth) {
            for broker in &mut fresh {
                let mut all = Vec::new();
                for point in growth::points(&settings, &args.waiting) {
                    let found = growth::run(broker, &point, args.runs, &dir, &mut shown).map_err(explain)?;
                    grown_well &= found.is_verified();
                    if args.json {
                        output.line(&serde_json::to_string(&found)?)?;
                        output.flush()?;
                    }
                    all.push(found);
                }
                shown.end();
                if !args.json {
                    output.line(&curves(&all))?;
                    output.flush()?;
                }
            }
        }
        shown.end();
        if !args.json && !runs.is_empty() {
            print(&format!("{}\n\n{}", headline(&settings, &runs), results(&runs)))?;
        }
        if let Some(file) = &args.plot {
            draw(file, &runs)?;
        }
        let bad: Vec<&Run> = runs.iter().filter(|run| !run.report.verified).collect();
        for run in &bad {
            message(&format!("herald: {}: not as it should be: {:?}", run.report.title, run.report.verdict));
        }
        if !grown_well {
            message("herald: growth: not all of it is as it should be");
        }
        Ok(if bad.is_empty() && grown_well { DONE } else { FAILED })
    }

    fn workloads(args: &Args) -> Vec<Workload> {
        let all = [Kind::Publish, Kind::Work, Kind::Latency, Kind::FanOut, Kind::Backlog];
        let kinds = if args.workloads.is_empty() { &all[..] } else { &args.workloads };
        let each = |kind: &Kind| match kind {
            Kind::Publish => vec![Workload::Publish],
            Kind::Work => args.prefetch.iter().map(|n| Workload::Work { prefetch: usize::from(*n) }).collect(),
            Kind::Latency => vec![Workload::Latency { rate: args.rate }],
            Kind::FanOut => {
                args.subscriptions.iter().map(|n| Workload::FanOut { subscriptions: usize::from(*n) }).collect()
            }
            Kind::Backlog => vec![Workload::Backlog],
            Kind::Idle | Kind::Growth => Vec::new(),
        };
        kinds.iter().flat_map(each).collect()
    }

    fn brokers(args: &Args, dir: &Path, more: &[String]) -> anyhow::Result<Vec<Herald>> {
        if let Some(server) = &args.server {
            let name = server.strip_prefix("tcp://").unwrap_or(server);
            let mut addrs =
                name.to_socket_addrs().map_err(|error| UsageError(format!("--server {server}: {error}")))?;
            let addr = addrs.next().ok_or_else(|| UsageError(format!("--server {server}: no address")))?;
            let place = Place::Remote { addr, token: args.token.clone(), pid: args.pid };
            return Ok(vec![Herald::new(place)]);
        }
        if is_in_memory(dir) {
            message(&format!(
                "herald: {} is in memory: syncing costs nothing there; --dir names a directory on a disk",
                dir.display()
            ));
        }
        let program = std::env::current_exe()?;
        let storage =
            args.storage.clone().unwrap_or_else(|| crate::registry::Registry::global().default_storage().to_owned());
        let each = args.durability.iter().map(|durability| {
            let (program, storage, set) = (program.clone(), Some(storage.clone()), [more, &args.set].concat());
            Herald::new(Place::Own { program, storage, durability: durability.clone(), set })
        });
        Ok(each.collect())
    }

    /// Writes the plot of the latency workload; of every run if that was not among them.
    fn draw(file: &Path, runs: &[Run]) -> anyhow::Result<()> {
        let is_latency = |run: &&Run| run.report.rate.is_some();
        let all_alike = !runs.iter().any(|run| is_latency(&run));
        let named: Vec<_> = runs
            .iter()
            .filter(|run| all_alike || is_latency(run))
            .flat_map(|run| [("confirmation", &run.confirms, run), ("delivery", &run.deliveries, run)])
            .filter(|(_, latency, _)| !latency.is_empty())
            .map(|(what, latency, run)| (format!("{}, {}: {what}", run.report.title, run.report.level), latency))
            .collect();
        let curves: Vec<Curve<'_>> = named.iter().map(|(name, latency)| Curve { name, latency }).collect();
        plot::write(file, "Herald: latency over percentile", &curves)?;
        Ok(())
    }

    fn explain(error: bench::Error) -> anyhow::Error {
        match error {
            bench::Error::Options(text) => UsageError(text).into(),
            error => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_a_range_or_one() {
        assert_eq!(range("0..6"), Ok(0..=6));
        assert_eq!(range("-3..=3"), Ok(-3..=3));
        assert_eq!(range("5"), Ok(5..=5));
        assert!(range("6..0").is_err() && range("a..b").is_err() && range("").is_err());
    }

    #[test]
    fn rates_are_numbers_that_make_sense() {
        assert_eq!(rate("2.5"), Ok(2.5));
        assert!(["0", "-1", "nan", "inf", "x"].iter().all(|text| rate(text).is_err()));
    }
}
