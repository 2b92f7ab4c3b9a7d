//! Logging: to standard error, as text or JSON lines, with a level that can change while the broker runs.

use std::io::{self, Write};
use std::sync::OnceLock;

use indicatif::ProgressBar;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::output::stderr_is_terminal;
use crate::settings::LogFormat;

/// Changes the filter of a running process.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

/// Begins to log; for the outermost layer of a binary, once in a process.
///
/// # Errors
/// When `filter` is no filter, or something logs already.
pub fn start(filter: &str, format: LogFormat) -> Result<LogControl, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    // A log that cannot be written is not a reason to write about that to where it cannot be written.
    let layer = fmt::layer().with_writer(|| Stderr).log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => {
            let colours = stderr_is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            layer.with_ansi(colours).with_target(false).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    subscriber.try_init().map_err(|error| LogError(error.to_string()))?;
    Ok(LogControl(handle))
}

impl LogControl {
    /// From now on logs what `filter` says.
    ///
    /// # Errors
    /// When it is no filter.
    pub fn change(&self, filter: &str) -> Result<(), LogError> {
        self.0.reload(parse(filter)?).map_err(|error| LogError(error.to_string()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter).map_err(|error| LogError(format!("{filter:?} is not a tracing filter: {error}")))
}

/// Why nothing is logged.
#[derive(Debug, thiserror::Error)]
#[error("cannot log: {0}")]
pub struct LogError(String);

/// A live line that log lines have to be written above.
static LIVE: OnceLock<ProgressBar> = OnceLock::new();

/// From now on, log lines move `line` out of the way.
pub fn write_above(line: &ProgressBar) {
    let _the_first_one_stays = LIVE.set(line.clone());
}

struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match LIVE.get() {
            Some(line) => line.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
