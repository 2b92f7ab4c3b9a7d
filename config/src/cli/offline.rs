//! What `fsck`, `export` and `import` have in common: a data directory that no broker has, and how far they are.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use broker_core::storage::check::Check;
use broker_core::storage::{Recovery, RecoveryReport, Storage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::serve::Sources;
use crate::logging;
use crate::output::stderr_is_terminal;
use crate::registry::{self, Make, MakeStorage, Seam};
use crate::settings::load;
use crate::validate::StorageSettings;

/// Reads the configuration and begins to log.
pub(super) fn prepare(sources: &Sources) -> anyhow::Result<StorageSettings> {
    let loaded = load(&sources.inputs())?;
    let settings = loaded.settings;
    logging::start(&settings.broker.log, settings.broker.log_format)?;
    // Whoever saves or looks after what is stored does not want it gone, whatever a broker does when it starts.
    Ok(StorageSettings { clean_on_start: false, ..settings.storage })
}

/// Refuses a directory that is not there: a mistyped path must not look like an empty storage.
pub(super) fn must_exist(settings: &StorageSettings) -> anyhow::Result<()> {
    let path = &settings.path;
    anyhow::ensure!(
        path.is_dir(),
        "there is no data directory {}: name the broker's configuration with --config, or the directory with \
         --set storage.path=…",
        path.display()
    );
    Ok(())
}

fn make(settings: &StorageSettings) -> anyhow::Result<MakeStorage> {
    match registry::find(Seam::Storage, &settings.kind) {
        Ok(Make::Storage(make)) => Ok(make),
        Ok(_) => anyhow::bail!("\"{}\" is no storage", settings.kind),
        Err(absent) => anyhow::bail!("{absent}"),
    }
}

/// Opens the storage and hands what it holds to `recovery`.
pub(super) async fn open<R: Recovery + 'static>(
    settings: &StorageSettings,
    mut recovery: R,
) -> anyhow::Result<(Arc<dyn Storage>, R, RecoveryReport)> {
    let (make, settings) = (make(settings)?, settings.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let storage = (make.open)(&settings)?;
        let report = storage.recover(&mut recovery)?;
        Ok::<_, anyhow::Error>((storage, recovery, report))
    });
    opened.await.context("opening the storage panicked")?
}

/// Takes the directory for checking. Blocking.
pub(super) fn check(settings: &StorageSettings) -> anyhow::Result<Box<dyn Check>> {
    Ok((make(settings)?.check)(settings)?)
}

/// A line on the terminal, if there is one.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    /// Counts up to `total`, if that is known.
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

    /// So many are done.
    pub(super) fn set(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    /// So many of so many are done.
    pub(super) fn set_of(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Does something while the line is out of the way.
    pub(super) fn aside<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    /// Takes the line away.
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
