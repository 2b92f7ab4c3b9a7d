//! Lookup of a key in the schema by its name, for environment variables, `--set` and suggestions.

use broker_core::settings::text::nearest;
use broker_core::settings::{Shape as ValueShape, text};

use super::path::below;
use super::schema::{Field, Shape, Table};

/// The prefix of environment variables that are keys.
pub(crate) const PREFIX: &str = "HERALD_";

/// How the text of a variable or of `--set` becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Text, to be taken as it is.
    Text,
    /// To be parsed as TOML.
    Toml,
}

/// Why a path leads to no key.
pub(crate) enum Unknown {
    /// There is no such key.
    Key,
    /// It would lie inside this list.
    Inside(String),
}

/// Finds the key at `path`, in any `kind`.
pub(crate) fn find(schema: &Table, path: &[String]) -> Result<Wanted, Unknown> {
    let mut table = schema;
    let mut so_far = String::new();
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        so_far = below(&so_far, name);
        let field = match table.find(name) {
            Some(field) => field,
            // An absent plugin may have the key; the check reports the plugin.
            None if table.open || table.kinds.iter().any(|keys| !keys.kind.is_built()) => return Ok(Wanted::Text),
            None => return Err(Unknown::Key),
        };
        table = match &field.shape {
            Shape::Table(inner) => inner,
            Shape::Patterns(inner) => {
                let Some(pattern) = names.next() else { return Ok(Wanted::Toml) };
                so_far = below(&so_far, pattern);
                inner
            }
            Shape::List(_) if names.peek().is_some() => return Err(Unknown::Inside(so_far)),
            _ if names.peek().is_some() => return Err(Unknown::Key),
            shape => return Ok(wanted(shape)),
        };
    }
    Ok(Wanted::Toml)
}

fn wanted(shape: &Shape) -> Wanted {
    match shape {
        Shape::Plugin(_) => Wanted::Text,
        Shape::Value(key) => match key.shape {
            ValueShape::Text | ValueShape::Path(_) | ValueShape::Address | ValueShape::Word(_) => Wanted::Text,
            _ => Wanted::Toml,
        },
        Shape::Table(_) | Shape::Patterns(_) | Shape::List(_) => Wanted::Toml,
    }
}

/// Every key that a variable or `--set` can set, dotted.
pub(crate) fn known_keys(schema: &Table) -> Vec<String> {
    fn collect(path: &str, table: &Table, keys: &mut Vec<String>) {
        for field in table.all() {
            let path = below(path, field.name);
            match &field.shape {
                Shape::Table(inner) => collect(&path, inner, keys),
                Shape::Patterns(inner) => collect(&below(&path, "*"), inner, keys),
                _ => {}
            }
            keys.push(path);
        }
    }
    let mut keys = Vec::new();
    collect("", schema, &mut keys);
    keys
}

/// The message about a key that does not exist.
pub(crate) fn unknown_key(schema: &Table, key: &str) -> String {
    let keys = known_keys(schema);
    match nearest(key, keys.iter().map(String::as_str)) {
        Some(meant) => format!("unknown key: did you mean {meant}?"),
        None => "unknown key: see `herald config init` for those there are".to_owned(),
    }
}

/// The message about a key that the table at hand does not have.
pub(crate) fn unknown_name(name: &str, fields: &[&Field]) -> String {
    match text::nearest(name, fields.iter().map(|field| field.name)) {
        Some(near) => format!("unknown key: did you mean {near}?"),
        None => {
            let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
            format!("unknown key: expected one of {}", names.join(", "))
        }
    }
}

/// The name of the environment variable for a key.
pub(crate) fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('"', "").replace('.', "__").to_uppercase())
}

/// Whether SIGHUP applies a change of the dotted `key`.
pub(crate) fn is_reloaded(schema: &Table, key: &str) -> bool {
    let mut table = schema;
    for name in key.split('.') {
        let Some(field) = table.find(name) else { return false };
        if field.reload {
            return true;
        }
        match &field.shape {
            Shape::Table(inner) => table = inner,
            // Names in them are quoted, and lists and patterns count as a whole.
            _ => return false,
        }
    }
    false
}
