//! Settings: layers of values -> check of keys and types -> check of meaning -> [`Settings`].
//!
//! | to find | look in |
//! | --- | --- |
//! | every key, its default and what it means | `schema` |
//! | defaults, file, environment, `--set` | `layers` |
//! | unknown keys, wrong types, missing keys | `check` |
//! | what serde reads | `raw` |
//! | what an error looks like | `problem`, `suggest`, `path` |
//! | `herald config show`, `herald config init` | `show`, `template` |

pub(crate) mod check;
pub(crate) mod layers;
pub(crate) mod path;
pub(crate) mod problem;
pub(crate) mod raw;
pub(crate) mod schema;
mod show;
mod suggest;
mod template;

#[cfg(test)]
mod small_build;
// They name every plugin.
#[cfg(test)]
#[cfg(all(feature = "json-log", feature = "tcp", feature = "sse"))]
mod tests;

use std::collections::BTreeMap;

use figment::value::{Dict, Tag, Value};

pub use layers::{FileLayer, Inputs};
pub use problem::{Origin, Problem, SettingsError};
pub use raw::{Durability, LogFormat, OnDamage, OnMissing};
pub use show::show;
pub use template::template;

use crate::validate::{Settings, validate};

/// A configuration that can be run, and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What to run.
    pub settings: Settings,
    values: Dict,
    origins: BTreeMap<String, Origin>,
}

/// Reads, checks and validates a configuration.
///
/// # Errors
/// [`SettingsError`] with every problem that there is.
pub fn load(inputs: &Inputs) -> Result<Loaded, SettingsError> {
    let (figment, mut problems) = layers::merge(inputs);
    let checked = check::check(&figment, &mut problems);
    let value = Value::Dict(Tag::Default, checked.values.clone());
    let settings = match value.deserialize() {
        Ok(raw) => Some(validate(raw, &checked.origins, &checked.sources, &inputs.environment, &mut problems)),
        Err(error) => {
            // The check and the structs disagree: a mistake of ours, unless the check has found something to say anyway.
            if problems.is_empty() {
                problems.push(Problem::new(Origin::Default, error.path.join("."), error.kind.to_string()));
            }
            None
        }
    };
    match settings {
        Some(settings) if problems.is_empty() => {
            Ok(Loaded { settings, values: checked.values, origins: checked.origins })
        }
        _ => Err(SettingsError { problems }),
    }
}

/// The keys in which `new` differs from `old`, dotted; lists count as a whole.
#[must_use]
pub fn changes(old: &Loaded, new: &Loaded) -> Vec<String> {
    fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, changed: &mut Vec<String>) {
        match (old, new) {
            (Some(Value::Dict(_, old)), Some(Value::Dict(_, new))) => {
                let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                for name in names {
                    compare(&path::below(path, name), old.get(name), new.get(name), changed);
                }
            }
            (old, new) if old == new => {}
            _ => changed.push(path.to_owned()),
        }
    }
    let mut changed = Vec::new();
    for (name, value) in &old.values {
        compare(name, Some(value), new.values.get(name), &mut changed);
    }
    for (name, value) in new.values.iter().filter(|(name, _)| !old.values.contains_key(*name)) {
        compare(name, None, Some(value), &mut changed);
    }
    changed
}
