//! The configuration: layers of values -> check of keys and types -> validation -> [`Settings`].
//!
//! | to find | look in |
//! | --- | --- |
//! | the tree of all keys, with those of plugins from the registry | `schema` |
//! | the keys that belong to no plugin | `keys` |
//! | file, environment, `--set` | `layers` |
//! | variables that Kubernetes sets, which are no keys | `service_link` |
//! | a key by its name; suggestions | `lookup` |
//! | unknown keys, wrong types, missing keys | `check` |
//! | the text of an error | `problem`, `path` |
//! | `herald config show`, `herald config init` | `show`, `template` |
//! | `docs/configuration.md` | `reference` |

pub(crate) mod check;
mod keys;
pub(crate) mod layers;
mod lookup;
pub(crate) mod path;
pub(crate) mod problem;
mod reference;
pub(crate) mod schema;
mod service_link;
mod show;
mod template;

#[cfg(test)]
mod missing_features;
// The tests name plugins, so they need a build that has them.
#[cfg(test)]
#[cfg(all(feature = "json-log", feature = "tcp", feature = "sse"))]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use broker_core::settings::Values;
use serde_json::Value;

pub use layers::{FileLayer, Inputs};
pub use problem::{Origin, Problem, SettingsError};
pub use reference::reference;
pub use show::show;
pub use template::template;

use crate::registry::Registry;
use crate::validate::{Settings, validate};
use schema::{Table, schema};

/// A valid configuration, with the origin of each value.
#[derive(Clone)]
pub struct Loaded {
    /// The settings to run.
    pub settings: Settings,
    values: Values,
    origins: BTreeMap<String, Origin>,
    schema: Arc<Table>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Reads, checks and validates a configuration for the plugins of this build.
///
/// # Errors
/// [`SettingsError`] with every problem at once.
pub fn load(inputs: &Inputs) -> Result<Loaded, SettingsError> {
    load_for(Registry::global(), inputs)
}

/// Reads, checks and validates a configuration for the plugins of `registry`.
///
/// # Errors
/// [`SettingsError`] with every problem at once.
pub fn load_for(registry: &Registry, inputs: &Inputs) -> Result<Loaded, SettingsError> {
    let schema = Arc::new(schema(registry));
    let (figment, mut problems) = layers::merge(inputs, &schema);
    let checked = check::check(&figment, registry, &schema, &mut problems);
    let settings = validate(registry, &checked, &inputs.environment, &mut problems);
    match settings {
        Some(settings) if problems.is_empty() => {
            Ok(Loaded { settings, values: checked.values, origins: checked.origins, schema })
        }
        _ => Err(SettingsError { problems }),
    }
}

/// The tree of the keys of this build.
fn global_schema() -> &'static Table {
    static GLOBAL: LazyLock<Table> = LazyLock::new(|| schema(Registry::global()));
    &GLOBAL
}

impl Loaded {
    /// Whether SIGHUP applies a change of the dotted `key`, as [`changes`] names it.
    #[must_use]
    pub fn is_reloaded(&self, key: &str) -> bool {
        lookup::is_reloaded(&self.schema, key)
    }
}

/// The dotted keys in which `new` differs from `old`; a list counts as one key.
#[must_use]
pub fn changes(old: &Loaded, new: &Loaded) -> Vec<String> {
    fn compare(path: &str, old: &Values, new: &Values, changed: &mut Vec<String>) {
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let path = path::below(path, name);
            match (old.get(name), new.get(name)) {
                (Some(Value::Object(old)), Some(Value::Object(new))) => compare(&path, old, new, changed),
                (old, new) if old == new => {}
                _ => changed.push(path),
            }
        }
    }
    let mut changed = Vec::new();
    compare("", &old.values, &new.values, &mut changed);
    changed
}
