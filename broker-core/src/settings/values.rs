//! Converts checked values to a struct.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

use super::key::Key;

/// The values of one table, each default filled in.
pub type Values = serde_json::Map<String, Value>;

/// A value that a plugin cannot use. The loader of the configuration adds file and full key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, below the plugin's table.
    pub key: String,
    /// The message: the fault and the expected value. It never quotes a secret.
    pub text: String,
}

impl Problem {
    /// A problem with `key`.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { key: key.into(), text: text.into() }
    }
}

/// The defaults of `keys`.
#[must_use]
pub fn defaults(keys: &[Key]) -> Values {
    keys.iter().filter_map(|key| Some((key.name.to_owned(), key.default_value()?))).collect()
}

/// Reads checked values into a configuration.
///
/// # Errors
/// If the struct and the plugin's keys disagree, which [`Key::check`] cannot detect.
pub fn read<T: DeserializeOwned>(values: &Values) -> Result<T, Vec<Problem>> {
    serde_json::from_value(Value::Object(values.clone())).map_err(|error| vec![Problem::new("", error.to_string())])
}

/// The configuration with the defaults of these keys: the body of a plugin's `Default`.
///
/// # Panics
/// If the struct and the keys disagree, or a key has no default. Any test that calls it finds that.
#[must_use]
pub fn from_defaults<T: DeserializeOwned>(tables: &[&[Key]]) -> T {
    let values = tables.iter().flat_map(|keys| defaults(keys)).collect();
    read(&values).unwrap_or_else(|problems| panic!("the keys of a plugin and its configuration disagree: {problems:?}"))
}

/// Reads MiB as bytes.
///
/// # Errors
/// If the value is no integer from 0.
pub fn mebibytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    u64::deserialize(deserializer).map(|mebibytes| mebibytes.saturating_mul(1 << 20))
}

/// Reads milliseconds.
///
/// # Errors
/// If the value is no integer from 0.
pub fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// Reads milliseconds, where 0 means no limit.
///
/// # Errors
/// If the value is no integer from 0.
pub fn milliseconds_or_unlimited<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    milliseconds(deserializer).map(|limit| (!limit.is_zero()).then_some(limit))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::settings::{Preset, Shape};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(rename = "cache_mb", deserialize_with = "mebibytes")]
        cache_bytes: u64,
        #[serde(rename = "flush_ms", deserialize_with = "milliseconds")]
        flush: Duration,
        #[serde(rename = "idle_ms", deserialize_with = "milliseconds_or_unlimited")]
        idle: Option<Duration>,
        name: Option<String>,
    }

    const KEYS: &[Key] = &[
        Key::with_default("cache_mb", Shape::Int(1, 9), Preset::Int(2), "A cache."),
        Key::with_default("flush_ms", Shape::Int(1, 9), Preset::Int(3), "A time."),
        Key::with_default("idle_ms", Shape::Int(0, 9), Preset::Int(0), "A limit."),
        Key::optional("name", Shape::Text, "A name."),
    ];

    #[test]
    fn defaults_become_a_configuration_in_its_units() {
        let expected = Config { cache_bytes: 2 << 20, flush: Duration::from_millis(3), idle: None, name: None };
        assert_eq!(from_defaults::<Config>(&[KEYS]), expected);
    }

    #[test]
    fn an_unknown_key_is_a_problem() {
        let mut values = defaults(KEYS);
        values.insert("more".to_owned(), Value::Null);
        let problems = read::<Config>(&values).unwrap_err();
        assert!(problems[0].text.contains("unknown field `more`"), "{problems:?}");
    }
}
