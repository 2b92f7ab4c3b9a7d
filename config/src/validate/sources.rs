//! `[[sources]]`.

use std::sync::Arc;

use broker_core::name::MAX_NAME_BYTES;
use broker_core::settings::text::quoted;
use broker_core::settings::{SourceConfig, Values};
use broker_core::transfer::IMPORT_CURSOR;
use serde_json::Value;

use super::Validate;
use crate::registry::Entry;
use crate::settings::path::{below, entry};

/// One of `[[sources]]`.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// The kind, as the registry calls it.
    pub kind: &'static str,
    /// The source's name, and the key of its cursor.
    pub name: String,
    /// The source's configuration, which makes it.
    pub config: Arc<dyn SourceConfig>,
}

/// `places` holds the written position of each entry: the check has removed unusable ones.
pub(super) fn sources(validate: &mut Validate<'_>, places: &[usize]) -> Vec<SourceSettings> {
    let entries = validate.values.get("sources").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut names: Vec<(String, String)> = Vec::new();
    let mut sources = Vec::new();
    for (at, value) in entries.into_iter().enumerate() {
        let path = entry("sources", places.get(at).copied().unwrap_or(at));
        let Value::Object(mut values) = value else { continue };
        let (Some(kind), Some(name)) = (take(&mut values, "kind"), take(&mut values, "name")) else { continue };
        check_name(validate, &path, &name, &names);
        names.push((name.clone(), path.clone()));
        // The check has reported a kind that is unavailable.
        let Some((kind, plugin)) = Entry::plugin(&validate.registry.sources, &kind) else { continue };
        match (plugin.configure)(&values) {
            Ok(config) => sources.push(SourceSettings { kind, name, config }),
            Err(problems) => validate.plugin_problems(&path, problems),
        }
    }
    sources
}

fn take(values: &mut Values, key: &str) -> Option<String> {
    values.remove(key)?.as_str().map(str::to_owned)
}

fn check_name(validate: &mut Validate<'_>, path: &str, name: &str, names: &[(String, String)]) {
    let text = if name.is_empty() || name.len() > MAX_NAME_BYTES {
        "expected a name of 1 to 255 bytes".to_owned()
    } else if name == IMPORT_CURSOR {
        format!("{} is reserved: choose another name", quoted(name))
    } else if let Some((_, other)) = names.iter().find(|(other, _)| other == name) {
        let name = quoted(name);
        format!("{name} is the name of {other} as well: each needs its own, under which its position is stored")
    } else {
        return;
    };
    validate.problem(&below(path, "name"), text);
}
