//! Settings that every storage has.

use std::path::PathBuf;

use serde::Deserialize;

use super::key::{Key, Preset, Shape};
use super::values::Problem;
use crate::storage::Level;

/// The point at which a storage reports a batch as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Synced to the disk: the batch survives a power failure.
    #[default]
    Always,
    /// Written to the operating system, and synced every `sync_interval_ms`: a power failure may lose the last interval.
    Interval,
    /// In memory: a crash of the broker may lose it. The storage writes it soon after.
    Never,
}

impl Durability {
    /// Every value, as an operator writes it.
    pub const WORDS: &[&str] = &["always", "interval", "never"];

    /// The value as an operator writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => Self::WORDS[0],
            Self::Interval => Self::WORDS[1],
            Self::Never => Self::WORDS[2],
        }
    }

    /// The level that a confirmation names.
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            Self::Always => Level::Synced,
            Self::Interval => Level::Written,
            Self::Never => Level::Memory,
        }
    }
}

/// The reaction to a damaged record that has valid ones after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDamage {
    /// Leave it in place, report it, and continue without it.
    #[default]
    Serve,
    /// Refuse to start.
    Stop,
}

/// The data directory.
pub const PATH: Key = Key::with_default(
    "path",
    Shape::Path("directory"),
    Preset::Text("data"),
    "The data directory, relative to the working directory; created if it is missing.",
);

/// When an event is confirmed.
pub const DURABILITY: Key = Key::with_default(
    "durability",
    Shape::Word(Durability::WORDS),
    Preset::Text(Durability::WORDS[0]),
    "When an event is confirmed. \"always\": once it is synced to the disk. \"interval\": once the operating system has it;\n\
     it is synced every sync_interval_ms, and a power failure may lose what came since. \"never\": once it is in memory; a\n\
     crash of the broker may lose it as well.",
);

/// The time between two syncs.
pub const SYNC_INTERVAL_MS: Key = Key::with_default(
    "sync_interval_ms",
    Shape::Int(1, 60 * 60 * 1000),
    Preset::Int(1000),
    "With durability = \"interval\": milliseconds between two syncs.",
);

/// The reaction to damage.
pub const ON_DAMAGE: Key = Key::with_default(
    "on_damage",
    Shape::Word(&["serve", "stop"]),
    Preset::Text("serve"),
    "A damaged record inside the log: \"serve\" leaves it in place, reports it and continues; \"stop\" refuses to start.",
);

/// Whether to begin empty.
pub const CLEAN_ON_START: Key = Key::with_default(
    "clean_on_start",
    Shape::Bool,
    Preset::Bool(false),
    "Begin with an empty storage: every start deletes what is stored.",
);

/// The keys that every storage has, before its own.
pub const SHARED: &[Key] = &[PATH, DURABILITY, SYNC_INTERVAL_MS, ON_DAMAGE, CLEAN_ON_START];

/// The values of [`SHARED`], for code that works with any storage.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedStorageSettings {
    /// The data directory.
    pub path: PathBuf,
    /// When an event is confirmed.
    pub durability: Durability,
    /// With [`Durability::Interval`]: the time between two syncs, in milliseconds.
    pub sync_interval_ms: u64,
    /// The reaction to damage.
    pub on_damage: OnDamage,
    /// Whether to begin empty.
    pub clean_on_start: bool,
}

/// Checks the shared values of a configuration that was built by code, against the same ranges.
#[must_use]
pub fn problems(path: &std::path::Path, sync_interval_ms: u64) -> Vec<Problem> {
    let mut problems = Vec::new();
    if path.as_os_str().is_empty() {
        problems.push(Problem::new(PATH.name, "the path is empty: expected a directory"));
    }
    problems.extend(out_of_range(&SYNC_INTERVAL_MS, sync_interval_ms));
    problems
}

/// The problem of a value outside the range of its key.
#[must_use]
pub fn out_of_range(key: &Key, value: u64) -> Option<Problem> {
    let (least, most) = key.range();
    let outside = !(least..=most).contains(&value);
    outside.then(|| Problem::new(key.name, format!("expected an integer from {least} to {most}, found {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::from_defaults;

    #[test]
    fn the_shared_defaults_are_the_strictest() {
        let shared: SharedStorageSettings = from_defaults(&[SHARED]);
        assert_eq!((shared.durability, shared.on_damage), (Durability::Always, OnDamage::Serve));
        assert_eq!((shared.sync_interval_ms, shared.clean_on_start), (1000, false));
        assert_eq!(shared.path, PathBuf::from("data"));
    }

    #[test]
    fn every_durability_is_read_from_its_word() {
        for durability in [Durability::Always, Durability::Interval, Durability::Never] {
            let word = serde_json::Value::from(durability.as_str());
            assert_eq!(serde_json::from_value::<Durability>(word).unwrap(), durability);
        }
    }

    #[test]
    fn values_set_by_code_are_held_to_the_same_ranges() {
        let problems = problems(std::path::Path::new(""), 0);
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["path", "sync_interval_ms"]);
    }
}
