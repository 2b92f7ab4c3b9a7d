//! `herald feed`: the simulated tweet feed, served as the reference's container did.

use std::path::PathBuf;

use super::exit::Status;
use super::number::{integer, rate};

/// Whether this build has the command.
pub(super) const BUILT: bool = cfg!(feature = "pipeline");

/// Serve the simulated tweet feed: server-sent events on /tweets/1 and /tweets/2
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  herald feed                             then: curl -N http://127.0.0.1:4000/tweets/1\n  \
                        herald feed --rate 5 --panic-every 100\n  \
                        herald feed --file tweets.jsonl         real messages, one a line, again and again"
)]
pub(super) struct Args {
    /// Where to listen; port 0: a free one, which the log tells
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4000")]
    listen: String,
    /// Events per second on each connection
    #[arg(long, value_name = "N", default_value = "50", value_parser = rate)]
    rate: f64,
    /// Every Nth event is {"message": panic}, which is not JSON; 0: none
    #[arg(long, value_name = "N", default_value = "0", value_parser = integer(0..=u64::MAX))]
    panic_every: u64,
    /// Serve the messages of this file, one JSON message a line, instead of generated ones; can be given again
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// What the generated tweets follow from: the same seed, the same tweets
    #[arg(long, value_name = "N", default_value = "1", value_parser = integer(0..=u64::MAX))]
    seed: u64,
}

#[cfg(feature = "pipeline")]
pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    use pipeline_feed::FeedConfig;
    use tokio_util::sync::CancellationToken;

    use super::exit::DONE;
    use crate::logging;
    use crate::signals::Signals;
    use crate::validate::LogFormat;

    let Args { listen, rate, panic_every, file, seed } = args;
    let config = FeedConfig { rate, panic_every, files: file, seed, ..FeedConfig::default() };
    logging::start("info", LogFormat::Text)?;
    crate::limits::raise_open_files();
    let mut signals = Signals::stopping()?;
    let feed = load(config).await?;
    let (listener, addr) = listen_on(&listen, "--listen").await?;
    tracing::info!(transport = %"feed", addr = %addr, "listening");
    let shutdown = CancellationToken::new();
    let serving = feed.serve(listener, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => served?,
        _ = signals.stop() => {
            shutdown.cancel();
            serving.await?;
        }
    }
    Ok(DONE)
}

#[cfg(not(feature = "pipeline"))]
pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let Args { listen: _, rate: _, panic_every: _, file: _, seed: _ } = args;
    Err(super::exit::UsageError("this build has no tweet feed: rebuild with --features pipeline".to_owned()).into())
}

/// Checks the settings and reads the message files.
#[cfg(feature = "pipeline")]
pub(super) async fn load(config: pipeline_feed::FeedConfig) -> anyhow::Result<pipeline_feed::Feed> {
    use pipeline_feed::{Feed, FeedError};

    let loaded = tokio::task::spawn_blocking(|| Feed::new(config)).await?;
    loaded.map_err(|error| match error {
        FeedError::Config { problems } => super::exit::UsageError(problems.join("\n")).into(),
        error => error.into(),
    })
}

/// Listens on `addr`. An error names `option`, which set the address.
#[cfg(feature = "pipeline")]
pub(super) async fn listen_on(
    addr: &str,
    option: &str,
) -> anyhow::Result<(tokio::net::TcpListener, std::net::SocketAddr)> {
    use std::io::ErrorKind;

    let listener = tokio::net::TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow::anyhow!("{addr} is in use: choose another with {option}"),
        ErrorKind::InvalidInput => {
            super::exit::UsageError(format!("{option}: {addr:?} is no address: expected host:port")).into()
        }
        _ => anyhow::anyhow!("cannot listen on {addr}: {error}; choose another with {option}"),
    })?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}
