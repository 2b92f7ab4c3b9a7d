//! The settings of a campaign.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

/// The storage below the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// `storage.kind = "json-log"`.
    JsonLog,
    /// `storage.kind = "sled"`.
    Sled,
    /// `storage.kind = "sqlite"`.
    Sqlite,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::JsonLog, Self::Sled, Self::Sqlite];

    /// Its `kind` in the configuration.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::JsonLog => "json-log",
            Self::Sled => "sled",
            Self::Sqlite => "sqlite",
        }
    }

    /// The log lines that show that it frees space, the rarest first.
    pub(crate) fn cleaning(self) -> &'static [&'static str] {
        match self {
            Self::JsonLog => &["moved the live events of a segment", "freed a segment"],
            Self::Sled => &["compacted the database"],
            Self::Sqlite => &["cutting off free pages", "moved the log into the database"],
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// `storage.durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// An event is confirmed once it is synced.
    Always,
    /// An event is confirmed once the operating system has it.
    Interval,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Interval => "interval",
        })
    }
}

/// The kind of crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The process is killed with `kill -9`.
    Kill,
    /// The machine loses power: unsynced data is lost, or survives in parts.
    PowerCut,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
        })
    }
}

/// The settings of one campaign.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The storage.
    pub backend: Backend,
    /// Its durability.
    pub durability: Durability,
    /// The kind of crash.
    pub mode: Mode,
    /// How often the broker is loaded and crashed.
    pub rounds: u64,
    /// The seed, which repeats a campaign's choices, but not its timing.
    pub seed: u64,
    /// The longest duration of a round's load, in milliseconds.
    pub longest_load_ms: u64,
    /// The parent directory of a finding's evidence; the system's temporary directory if `None`.
    pub evidence: Option<PathBuf>,
    /// With [`Mode::PowerCut`]: makes the broker's syncs do nothing, to verify that the campaign notices.
    pub syncs_do_nothing: bool,
}

impl Settings {
    /// A campaign at `always`.
    #[must_use]
    pub fn new(backend: Backend, mode: Mode, rounds: u64, seed: u64) -> Self {
        let durability = Durability::Always;
        let (longest_load_ms, evidence, syncs_do_nothing) = (250, None, false);
        Self { backend, durability, mode, rounds, seed, longest_load_ms, evidence, syncs_do_nothing }
    }

    /// The broker's configuration.
    pub(crate) fn config(&self) -> String {
        let Self { backend, durability, .. } = self;
        // Small segments and a small memory, so that the log is constantly cleaned and payloads are constantly read back. A power cut
        // must find unsynced data, so the sync interval never ends.
        let interval = if self.mode == Mode::PowerCut { "sync_interval_ms = 3600000\n" } else { "" };
        let segments = if *backend == Backend::JsonLog { "segment_mb = 1\n" } else { "" };
        format!(
            "[broker]\nlog = \"info,backend_json_log=debug,backend_sqlite=debug\"\n\
             [storage]\nkind = \"{backend}\"\npath = \"store/data\"\ndurability = \"{durability}\"\n\
             memory_budget_mb = 1\n{segments}{interval}"
        )
    }
}
