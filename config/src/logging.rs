//! Logging to standard error, as text or JSON lines, with a level that can change while the broker runs.

use std::io::{self, Write};
use std::sync::OnceLock;

use indicatif::ProgressBar;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::output::{escape, escape_all, stderr_is_terminal};
use crate::validate::LogFormat;

/// Changes the filter of a running process's log.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

/// Starts logging. For the outermost layer of a binary, once per process.
///
/// # Errors
/// When `filter` is not a valid filter, or a log has been started already.
pub fn start(filter: &str, format: LogFormat) -> Result<LogControl, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    // A log line that cannot be written is dropped: a report of that would fail in the same way.
    let terminal = stderr_is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let escapes = match format {
        _ if !terminal => Escapes::Nothing,
        LogFormat::Text if colours => Escapes::AllButColours,
        LogFormat::Text | LogFormat::Json => Escapes::All,
    };
    let layer = fmt::layer().with_writer(move || Stderr(escapes)).log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(colours).with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    subscriber.try_init().map_err(|error| LogError(error.to_string()))?;
    Ok(LogControl(handle))
}

impl LogControl {
    /// Replaces the filter with `filter`.
    ///
    /// # Errors
    /// When it is not a valid filter.
    pub fn change(&self, filter: &str) -> Result<(), LogError> {
        self.0.reload(parse(filter)?).map_err(|error| LogError(error.to_string()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter).map_err(|error| LogError(format!("{filter:?} is not a tracing filter: {error}")))
}

/// The reason why logging cannot start or change.
#[derive(Debug, thiserror::Error)]
#[error("cannot log: {0}")]
pub struct LogError(String);

/// The live line that log lines are written above.
static LIVE: OnceLock<ProgressBar> = OnceLock::new();

/// Makes log lines appear above `line` from now on. Only the first call has an effect.
pub fn write_above(line: &ProgressBar) {
    let _the_first_one_stays = LIVE.set(line.clone());
}

/// The control characters of a log line that are escaped.
#[derive(Debug, Clone, Copy)]
enum Escapes {
    /// None: for files and pipes.
    Nothing,
    /// All but ESC, for a terminal. ESC begins the colours; `tracing` has escaped it in values.
    AllButColours,
    /// All, for a terminal without colours.
    All,
}

struct Stderr(Escapes);

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The formatter writes each log line in one call, so no character is split.
        let text = String::from_utf8_lossy(bytes);
        let escaped = match self.0 {
            Escapes::Nothing => None,
            Escapes::AllButColours => Some(escape_all(&text, |c| matches!(c, '\x1b' | '\n' | '\t'))),
            Escapes::All => Some(escape(&text)),
        };
        let shown = escaped.as_ref().map_or(bytes, |text| text.as_bytes());
        match LIVE.get() {
            Some(line) => line.suspend(|| io::stderr().write_all(shown)),
            None => io::stderr().write_all(shown),
        }?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
