//! The workloads of `herald bench` on Herald and on the brokers that people would take instead, one after the other on this
//! machine, and one table of the results. `bench/compare` builds it and runs it.
//!
//! | to find | look in |
//! | --- | --- |
//! | what is compared, at which durability, and how many events a slow one gets | [`contestants`] |
//! | each server: how it is started, its protocol | [`redis`], [`jetstream`], [`beanstalkd`], [`rabbitmq`] over [`amqp`] |
//! | the table | [`table`] |
//! | what Herald is to reach, and whether it did | [`goals`] |
//!
//! Every server gets the same events over the same loop (`bench::driver`), with a protocol written by hand: no client library
//! costs one of them more than the other. Each is used as its documentation advises for throughput: publishes pipelined up to the
//! window, acknowledgements of many events at once. Runs are interleaved, so that what else the machine does hits all alike.

mod amqp;
mod beanstalkd;
mod contestants;
mod goals;
mod jetstream;
mod local;
mod rabbitmq;
mod redis;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use bench::report::{Run, median};
use bench::verify::Verdict;
use bench::workload::{self, Settings, Watch, Workload};
use clap::Parser as _;
use contestants::Contestant;

/// Run the workloads of `herald bench` on Herald and on other brokers
#[derive(Debug, clap::Parser)]
struct Args {
    /// The herald binary
    #[arg(long, default_value = "target/release/herald")]
    herald: PathBuf,
    /// Where servers are looked for, besides PATH; can be given again
    #[arg(long, value_name = "DIR")]
    path: Vec<PathBuf>,
    /// Only those whose name contains one of these, such as redis,herald
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these workloads: publish, work-1, work-256, latency, fan-out-10, fan-out-100, fan-out-1000, backlog
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Runs of each; the median counts
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// A part of the usual number of events, for a quick look
    #[arg(long, default_value = "1")]
    scale: f64,
    /// Where the servers keep their data; its disk is what is measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write every result as a JSON line; given again, the later one counts
    #[arg(long, value_name = "FILE", overrides_with = "json")]
    json: Option<PathBuf>,
    /// Write the tables to this file as well; given again, the later one counts
    #[arg(long, value_name = "FILE", overrides_with = "table")]
    table: Option<PathBuf>,
}

/// The workloads in the order of the table's columns.
const WORKLOADS: [(&str, Workload); 8] = [
    ("publish", Workload::Publish),
    ("work-256", Workload::Work { prefetch: 256 }),
    ("work-1", Workload::Work { prefetch: 1 }),
    ("latency", Workload::Latency { rate: 5000.0 }),
    ("fan-out-10", Workload::FanOut { subscriptions: 10 }),
    ("fan-out-100", Workload::FanOut { subscriptions: 100 }),
    ("fan-out-1000", Workload::FanOut { subscriptions: 1000 }),
    ("backlog", Workload::Backlog),
];

fn main() -> ExitCode {
    match compare(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; whether all that ran was verified.
fn compare(args: &Args) -> anyhow::Result<bool> {
    let known = |name: &String| WORKLOADS.iter().any(|(known, _)| known == name);
    if let Some(unknown) = args.workloads.iter().find(|name| !known(name)) {
        anyhow::bail!("there is no workload {unknown:?}");
    }
    let (mut contestants, missing) = contestants::find(&args.herald, &args.path);
    contestants.retain(|one| args.only.is_empty() || args.only.iter().any(|part| one.name().contains(part.as_str())));
    missing.iter().for_each(|text| say(text));
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut json = args.json.as_ref().map(std::fs::File::create).transpose()?;
    let mut results: Vec<(usize, usize, Result<Run, String>)> = Vec::new();
    for (column, (name, workload)) in WORKLOADS.iter().enumerate() {
        if !args.workloads.is_empty() && !args.workloads.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut runs: Vec<Vec<Run>> = contestants.iter().map(|_| Vec::new()).collect();
        let mut failures: Vec<Option<String>> = contestants.iter().map(|_| None).collect();
        for round in 0..args.runs {
            for (row, contestant) in contestants.iter_mut().enumerate() {
                if !contestant.takes_part(name) || failures[row].is_some() {
                    continue;
                }
                let settings = settings(contestant, name, *workload, args.scale);
                match workload::run(contestant.target(), *workload, &settings, &dir, &mut Quiet) {
                    Ok(run) => {
                        let Run { report, .. } = &run;
                        let verified = if report.verified { "" } else { "  NOT AS IT SHOULD BE" };
                        let (title, per_second) = (&report.title, report.per_second);
                        say(&format!(
                            "{title}, run {}: {:32} {per_second:>9.0}/s{verified}",
                            round + 1,
                            contestant.name()
                        ));
                        if let Some(json) = &mut json {
                            writeln!(json, "{}", serde_json::to_string(report)?)?;
                        }
                        runs[row].push(run);
                    }
                    Err(error) => {
                        let error = format!("{:#}", anyhow::Error::from(error));
                        say(&format!("{}: {}: {error}", workload.title(), contestant.name()));
                        failures[row] = Some(error);
                    }
                }
            }
        }
        for (row, (runs, failure)) in runs.into_iter().zip(failures).enumerate() {
            let result = failure.map_or_else(|| median(runs).map(Ok), |failure| Some(Err(failure)));
            results.extend(result.map(|result| (row, column, result)));
        }
    }
    let titles: Vec<String> = WORKLOADS.iter().map(|(_, workload)| workload.title()).collect();
    let names: Vec<String> = contestants.iter().map(|one| one.name().to_owned()).collect();
    let mut text = table::write(&titles, &names, &results, &missing, args.runs);
    // A number that was not verified meets no goal.
    let good = |(row, column, result): &'_ (usize, usize, Result<Run, String>)| {
        let run = result.as_ref().ok().filter(|run| run.report.verified || lost_as_expected(run))?;
        Some((*row, *column, run.clone()))
    };
    let good: Vec<(usize, usize, Run)> = results.iter().filter_map(good).collect();
    let named = good.iter().map(|(row, column, run)| (names[*row].as_str(), WORKLOADS[*column].0, run));
    text.push_str(&goals::write(&goals::goals(&goals::Results(named.collect()))));
    std::io::stdout().write_all(text.as_bytes())?;
    if let Some(file) = &args.table {
        std::fs::write(file, &text)?;
    }
    Ok(results.iter().all(|(.., result)| result.as_ref().is_ok_and(|run| run.report.verified || lost_as_expected(run))))
}

/// Whether nothing is wrong with it but that events which were not synced are gone after the kill: of a peer that is a finding and
/// no failure of the comparison. Herald promises that they are there.
fn lost_as_expected(run: &Run) -> bool {
    let Run { report, .. } = run;
    let without = Verdict { missing: 0, ..report.verdict };
    report.server != "Herald" && report.level != "synced" && report.lost > 0 && without.is_good()
}

fn settings(contestant: &Contestant, name: &str, workload: Workload, scale: f64) -> Settings {
    let events = workload.default_events() as f64 * scale;
    // A rate takes as long as it takes, however fast the server is.
    let events = if name == "latency" { events } else { events * contestant.part(name) };
    Settings { events: Some((events as u64).max(100)), ..Settings::default() }
}

/// Shows no progress: each measurement is reported when it is done.
struct Quiet;

impl Watch for Quiet {
    fn begin(&mut self, _what: &str) {}

    fn advance(&mut self, _done: u64, _total: u64) -> Result<(), bench::Error> {
        Ok(())
    }
}

/// A line on standard error.
fn say(text: &str) {
    let _nobody_reads = writeln!(std::io::stderr().lock(), "{text}");
}
