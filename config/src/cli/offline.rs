//! The common parts of `fsck`, `export` and `import`: a data directory that no broker has open, and a progress bar.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use broker_core::settings::Start;
use broker_core::storage::check::Check;
use broker_core::storage::{Recovery, RecoveryReport, Storage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::serve::Sources;
use crate::logging;
use crate::output::stderr_is_terminal;
use crate::settings::load;
use crate::validate::StorageSettings;

/// Reads the configuration and starts logging.
pub(super) fn prepare(sources: &Sources) -> anyhow::Result<StorageSettings> {
    let loaded = load(&sources.inputs())?;
    let settings = loaded.settings;
    logging::start(&settings.broker.log, settings.broker.log_format)?;
    Ok(settings.storage)
}

/// Fails unless the directory holds a storage, and changes nothing: a mistyped path must not look like an empty storage.
pub(super) fn must_exist(settings: &StorageSettings) -> anyhow::Result<()> {
    let path = &settings.path;
    let found = path.is_dir();
    let advice = "name the broker's configuration with --config, or the directory with --set storage.path=…";
    anyhow::ensure!(found, "there is no data directory {}: {advice}", path.display());
    anyhow::ensure!(
        settings.config.is_there()?,
        "there is no {} storage in {}, which is empty: {advice}",
        settings.kind,
        path.display()
    );
    Ok(())
}

/// Opens the storage and feeds what it holds to `recovery`.
pub(super) async fn open<R: Recovery + 'static>(
    settings: &StorageSettings,
    mut recovery: R,
) -> anyhow::Result<(Arc<dyn Storage>, R, RecoveryReport)> {
    let config = Arc::clone(&settings.config);
    let opened = tokio::task::spawn_blocking(move || {
        // Neither an export nor an import may empty the storage, even where `clean_on_start` is set.
        let storage = config.open(Start::KeepData)?;
        let report = storage.recover(&mut recovery)?;
        Ok::<_, anyhow::Error>((storage, recovery, report))
    });
    opened.await.context("opening the storage panicked")?
}

/// Opens the directory for checking. Blocks.
pub(super) fn check(settings: &StorageSettings) -> anyhow::Result<Box<dyn Check>> {
    Ok(settings.config.check()?)
}

/// A progress bar on standard error; none where that is no terminal.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar that counts up to `total`, if that is known.
    pub(super) fn new(what: &'static str, total: Option<u64>, are_bytes: bool) -> Self {
        let bar = stderr_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let template = match (total, are_bytes) {
                (Some(_), true) => "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
                (Some(_), false) => "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
                (None, true) => "{spinner} {msg} {bytes}",
                (None, false) => "{spinner} {msg} {human_pos}",
            };
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what);
            bar.enable_steady_tick(Duration::from_millis(200));
            logging::write_above(&bar);
            bar
        });
        Self(bar)
    }

    /// Shows `done`.
    pub(super) fn set(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    /// Shows `done` of `total`.
    pub(super) fn set_of(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Runs `f` with the bar hidden, so that its output does not mix with it.
    pub(super) fn aside<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// `1 topic`, `2 topics`.
pub(super) fn count(number: u64, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}
