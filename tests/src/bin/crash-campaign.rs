//! Loads and crashes the broker repeatedly, and checks every event against its history.
//!
//! `cargo run --release -p herald-tests --bin crash-campaign -- --backend all --rounds 500`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use herald_tests::campaign::{self, Backend, Durability, Mode, Report, Settings};

/// Loads and crashes the broker repeatedly, and checks every event against its history.
///
/// Exits with 1 if a guarantee was violated, and keeps the evidence: the data as the crash left it, the broker's log, and the history
/// of every event.
#[derive(Debug, Parser)]
struct Arguments {
    /// The storage.
    #[arg(long, value_enum, default_value = "all")]
    backend: Which,
    /// How often the broker is loaded and crashed with each storage.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Repeats the choices, but not the timing, of the campaign with this seed; random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// `storage.durability`.
    #[arg(long, value_enum, default_value = "always")]
    durability: Durability,
    /// The loss in a crash: the process, or all unsynced data.
    #[arg(long, value_enum, default_value = "kill")]
    mode: Mode,
    /// The directory to work in and to leave the evidence in; the system's temporary directory by default.
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
    /// Makes the broker's syncs do nothing, to verify that a power cut reveals it.
    #[arg(long, requires = "mode")]
    syncs_do_nothing: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    JsonLog,
    Sled,
    Sqlite,
    All,
}

impl Which {
    fn backends(self) -> &'static [Backend] {
        match self {
            Self::JsonLog => &[Backend::JsonLog],
            Self::Sled => &[Backend::Sled],
            Self::Sqlite => &[Backend::Sqlite],
            Self::All => &Backend::ALL,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut good = true;
    for backend in arguments.backend.backends() {
        let mut settings = Settings::new(*backend, arguments.mode, arguments.rounds, seed);
        settings.durability = arguments.durability;
        settings.evidence.clone_from(&arguments.evidence);
        settings.syncs_do_nothing = arguments.syncs_do_nothing;
        let report = campaign::run(&settings, &mut progress);
        say(&mut std::io::stdout(), &format!("{report}\n"));
        good &= report.is_good();
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes a line to standard error about 20 times per campaign.
fn progress(report: &Report) {
    let every = (report.settings.rounds / 20).max(1);
    if report.rounds.is_multiple_of(every) {
        let Settings { backend, mode, rounds, .. } = &report.settings;
        say(&mut std::io::stderr(), &format!("{backend}, {mode}: round {} of {rounds}\n", report.rounds));
    }
}

fn say(out: &mut dyn std::io::Write, text: &str) {
    // If the output has no reader, the exit status still counts.
    let _no_reader = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
