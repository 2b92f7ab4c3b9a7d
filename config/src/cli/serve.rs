//! `herald serve`: runs the broker that the configuration describes, until a signal.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::exit::{DONE, FAILED, Status};
use crate::assembly::{Broker, Stopped, check_limits};
use crate::limits::raise_open_files;
use crate::logging;
use crate::output::message;
use crate::reload::reload;
use crate::settings::{Inputs, load};
use crate::signals::{Signal, Signals};

/// Run the broker that the configuration describes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald serve\n  herald serve --config /etc/herald.toml\n  \
                        herald serve --set storage.path=/var/lib/herald --set transports.tcp.listen=0.0.0.0:8000\n\n\
                        SIGTERM and SIGINT stop it in an orderly way (status 0); a second one ends it at once (status 143 \
                        or 130); a SIGINT within 100 ms of the first is the same one.\nSIGHUP reads the configuration again and, if all of it is valid, applies topics, auth.tokens and \
                        broker.log, and reads certificates again; everything else needs a restart.")]
pub(super) struct Args {
    #[command(flatten)]
    sources: Sources,
}

/// The origin of a configuration.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Sources {
    /// The configuration; without it ./herald.toml if that is there, else the defaults
    #[arg(long, value_name = "FILE", env = "HERALD_CONFIG", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    config: Option<PathBuf>,
    /// Set one key, over file and environment; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Sources {
    pub(super) fn inputs(&self) -> Inputs {
        // An empty variable is how some shells unset one.
        let config = self.config.clone().filter(|path| !path.as_os_str().is_empty());
        Inputs::from_process(config, self.set.clone())
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let inputs = args.sources.inputs();
    let loaded = load(&inputs)?;
    let settings = &loaded.settings;
    let log = logging::start(&settings.broker.log, settings.broker.log_format)?;
    check_limits(settings, raise_open_files());
    // Before the start, so that a signal during a long recovery is not lost.
    let mut signals = Signals::new()?;
    let starting = Broker::start(settings);
    let broker = tokio::select! {
        started = starting => started?,
        (name, _) = signals.stop() => {
            tracing::info!(signal = name, "stopped before everything was up");
            return Ok(DONE);
        }
    };
    tracing::info!(
        version = %env!("CARGO_PKG_VERSION"),
        shards = settings.broker.shards.get(),
        durability = %settings.storage.durability.as_str(),
        sources = settings.sources.len(),
        "herald is up"
    );
    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = broker.failed() => break,
        };
        match signal {
            Signal::Reload => {
                // A shard that waits for a slow disk takes its new policies late; a stop does not wait for it.
                let stopped = tokio::select! {
                    () = reload(&inputs, &loaded, &broker, &log) => None,
                    (name, _) = signals.stop() => Some(name),
                    () = broker.failed() => break,
                };
                if let Some(name) = stopped {
                    tracing::info!(signal = name, "stopping; a second signal ends it at once");
                    break;
                }
            }
            Signal::Stop { name, .. } => {
                tracing::info!(signal = name, "stopping; a second signal ends it at once");
                break;
            }
        }
    }
    Ok(stop(broker, settings.broker.shutdown_timeout, signals).await)
}

/// Stops `broker` in an orderly way; a further signal ends the process at once.
pub(super) async fn stop(broker: Broker, timeout: std::time::Duration, mut signals: Signals) -> Status {
    tokio::select! {
        stopped = broker.stop(timeout) => match stopped {
            Stopped::Clean => DONE,
            Stopped::Unclean => FAILED,
        },
        (name, status) = signals.stop() => {
            // Events that wait for a sync are left to the next start's recovery, as after a kill.
            message(&format!("herald: a second signal ({name}): ended at once"));
            std::process::exit(i32::from(status));
        }
    }
}
