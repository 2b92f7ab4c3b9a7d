//! What a campaign can be told.

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

    /// A word of its log that says that it has given space back, in the order of what is rarer.
    pub(crate) fn cleaning(self) -> &'static [&'static str] {
        match self {
            Self::JsonLog => &["moved what a segment still held", "freed a segment"],
            Self::Sled => &["rebuilt the database"],
            Self::Sqlite => &["cutting them off", "moved the log into the database"],
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
    /// Confirmed when it is synced.
    Always,
    /// Confirmed when it is with the operating system.
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

/// What a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The process: `kill -9`.
    Kill,
    /// The machine: what was not synced is gone, or there in parts.
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

/// One campaign.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The storage.
    pub backend: Backend,
    /// Its durability.
    pub durability: Durability,
    /// What a crash takes.
    pub mode: Mode,
    /// How often the broker is loaded and crashed.
    pub rounds: u64,
    /// Repeats a campaign's choices; not its timing.
    pub seed: u64,
    /// How long a round's load lasts at most, in milliseconds.
    pub longest_load_ms: u64,
    /// Where the evidence of a finding goes: below this directory. The system's temporary directory if it is `None`.
    pub evidence: Option<PathBuf>,
    /// With [`Mode::PowerCut`]: has the broker's syncs do nothing, to see that this is found out.
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
        // Small segments and a small memory, so that the log is cleaned and payloads are read back all the time. In the power cut
        // nothing is in the hands of the operating system for long by itself, so the interval need not pass.
        let interval = if self.mode == Mode::PowerCut { "sync_interval_ms = 3600000\n" } else { "" };
        format!(
            "[broker]\nlog = \"info,backend_json_log=debug,backend_sqlite=debug\"\n\
             [storage]\nkind = \"{backend}\"\npath = \"store/data\"\ndurability = \"{durability}\"\n\
             memory_budget_mb = 1\nsegment_mb = 1\n{interval}"
        )
    }
}
