//! The command line: one file for each subcommand.
//!
//! | to find | look in |
//! | --- | --- |
//! | `serve` | `serve` |
//! | `demo` | `demo` |
//! | `feed` | `feed` |
//! | `pub`, `sub` | `publish`, `subscribe` |
//! | `topics`, `stats` | `inspect` |
//! | `dead` | `dead` |
//! | `fsck`, `export`, `import` | `fsck`, `export`, `import` |
//! | the start of these three: a data directory without a broker | `offline` |
//! | `bench` | `bench`, and what it prints in `bench_output` |
//! | `config` | `config` |
//! | `completions` | `completions` |
//! | `man` | `man` |
//! | exit statuses | [`exit`] |
//! | which broker, which token, and the errors if it is out of reach | `remote` |

mod bench;
#[cfg(all(unix, feature = "bench", feature = "tcp"))]
mod bench_output;
mod completions;
mod config;
mod dead;
mod demo;
pub mod exit;
mod export;
mod feed;
mod fsck;
mod import;
mod inspect;
mod man;
mod number;
mod offline;
mod publish;
mod remote;
mod serve;
mod subscribe;

use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// A message broker with durable priority queues, in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "herald",
    version,
    long_version = LONG_VERSION.as_str(),
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = AFTER_HELP.as_str()
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker that the configuration describes
    Serve(serve::Args),
    /// Run all of it on this machine, with a simulated tweet feed
    #[command(hide = !demo::BUILT)]
    Demo(demo::Args),
    /// Serve the simulated tweet feed
    #[command(hide = !feed::BUILT)]
    Feed(feed::Args),
    /// Publish events to a topic
    Pub(publish::Args),
    /// Print events of topics and acknowledge them
    Sub(subscribe::Args),
    /// List the topics of a running broker
    Topics(inspect::TopicsArgs),
    /// Show the figures of a running broker
    Stats(inspect::StatsArgs),
    /// Look at dead letters, move them back, or drop them
    Dead(dead::Args),
    /// Check a data directory, and repair it
    Fsck(fsck::Args),
    /// Write what a data directory holds to standard output, as JSON lines
    Export(export::Args),
    /// Fill an empty data directory with an export
    Import(import::Args),
    /// Load a broker and print throughput, latency, CPU and memory
    #[command(hide = !bench::BUILT)]
    Bench(bench::Args),
    /// Check, show or write a configuration
    Config(config::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Print manual pages
    Man(man::Args),
}

/// The version, and the plugins of this build.
static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{}\n{}", env!("CARGO_PKG_VERSION"), crate::registry::Registry::global().contents()));

/// Examples that work with this build, and the exit statuses.
static AFTER_HELP: LazyLock<String> = LazyLock::new(|| {
    let demo = if demo::BUILT { "  herald demo                           see it at work, in a minute\n" } else { "" };
    let address = remote::DEFAULT_SERVER;
    format!(
        "Examples:\n{demo}  \
         herald serve                          a broker on {address}\n  \
         herald sub tweets --name mine         print events and acknowledge them\n  \
         herald pub tweets '{{\"priority\":3,\"msg\":\"hello\"}}'\n\n\
         Exit status: 0 done, 1 failed, 2 wrong usage or configuration."
    )
});

/// Parses the command line, runs the command, and returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    // Wrong usage ends here, with status 2, and --help and --version with 0.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            crate::output::message(&format!("herald: cannot start the runtime: {error}"));
            return exit::FAILED.into();
        }
    };
    let status = exit::report(runtime.block_on(run(cli.command)));
    // A thread that blocks on a read of standard input would delay the exit indefinitely.
    runtime.shutdown_timeout(Duration::from_millis(50));
    status.into()
}

async fn run(command: Command) -> anyhow::Result<exit::Status> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Feed(args) => feed::run(args).await,
        Command::Pub(args) => publish::run(args).await,
        Command::Sub(args) => subscribe::run(args).await,
        Command::Topics(args) => inspect::topics(args).await,
        Command::Stats(args) => inspect::stats(args).await,
        Command::Dead(args) => dead::run(args).await,
        Command::Fsck(args) => fsck::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Config(args) => config::run(args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

#[cfg(test)]
mod tests;
