//! Checks the merged layers against the schema, and reports every unknown key, wrong type and missing key at once.
//!
//! The result is complete and well-typed, with defaults in place of wrong values, so that validation can report its problems as
//! well.

use std::collections::BTreeMap;

use broker_core::settings::check::{found, type_of};
use broker_core::settings::text::{one_of, quoted};
use broker_core::settings::{Secret, Values};
use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider as _};
use serde_json::Value as Json;

use super::layers::{origin, to_json};
use super::lookup::{unknown_key, unknown_name};
use super::path::{below, entry};
use super::problem::{Origin, Problem};
use super::schema::{Field, Presence, Shape, Table};
use crate::registry::{Registry, Seam};

/// A configuration with the right keys and types.
pub(crate) struct Checked {
    /// Every key in force, with defaults.
    pub(crate) values: Values,
    /// The origin of each value that was written, by its key.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// For each entry of `sources` in `values`, its position in the written list.
    pub(crate) sources: Vec<usize>,
}

/// Checks the values of `figment` and adds every mistake to `problems`.
pub(crate) fn check(figment: &Figment, registry: &Registry, schema: &Table, problems: &mut Vec<Problem>) -> Checked {
    let mut check = Check { figment, registry, schema, problems, origins: BTreeMap::new(), sources: Vec::new() };
    let mut profiles = figment.data().unwrap_or_default();
    let written = profiles.remove(&Profile::Default).unwrap_or_default();
    let values = check.table("", schema, &written).0;
    Checked { values, origins: check.origins, sources: check.sources }
}

struct Check<'a> {
    figment: &'a Figment,
    registry: &'a Registry,
    schema: &'a Table,
    problems: &'a mut Vec<Problem>,
    origins: BTreeMap<String, Origin>,
    sources: Vec<usize>,
}

/// Whether every required key was there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Complete(bool);

impl Check<'_> {
    fn problem(&mut self, origin: &Origin, key: &str, text: impl Into<String>) {
        self.problems.push(Problem::new(origin.clone(), key, text));
    }

    fn table(&mut self, path: &str, table: &Table, written: &Dict) -> (Values, Complete) {
        // A table of kinds has the keys of one kind: the written one, else the default.
        let kind = match written.get("kind") {
            Some(value) => value.as_str(),
            None => table.find("kind").and_then(Field::default).and_then(Json::as_str),
        };
        let fields: Vec<&Field> = table.of_kind(kind).collect();
        for (name, value) in written.iter().filter(|(name, _)| !fields.iter().any(|field| field.name == **name)) {
            self.unknown(path, table, kind, &fields, name, value);
        }
        let owner = written.values().map(|value| self.origin(value)).find(|origin| *origin != Origin::Default);
        let mut values = Values::new();
        let mut complete = true;
        for field in fields {
            let path = below(path, field.name);
            let value = match written.get(field.name) {
                Some(value) => {
                    let origin = self.origin(value);
                    self.origins.insert(path.clone(), origin);
                    self.field(&path, field, value).or_else(|| self.default(&path, field))
                }
                None => {
                    if matches!(field.presence, Presence::Required) {
                        let origin = owner.clone().unwrap_or(Origin::Default);
                        self.problem(&origin, &path, format!("this key is missing: {}", self.expected(field)));
                    }
                    self.default(&path, field)
                }
            };
            match value {
                Some(value) => {
                    values.insert(field.name.to_owned(), value);
                }
                None => complete &= !matches!(field.presence, Presence::Required),
            }
        }
        (values, Complete(complete))
    }

    /// Reports a key that a table of this kind does not have.
    fn unknown(&mut self, path: &str, table: &Table, kind: Option<&str>, fields: &[&Field], name: &str, value: &Value) {
        let others: Vec<&str> = table.kinds_with(name).collect();
        let text = match kind {
            // A missing plugin would know the key. That plugin is the problem, and is reported elsewhere.
            _ if !table.knows(kind) => return,
            Some(kind) if !others.is_empty() && table.kinds.iter().any(|keys| keys.kind.kind == kind) => {
                let kind = quoted(kind);
                format!("kind = {kind} has no {name}: remove the key, or set kind = {}", one_of(others))
            }
            // In a small table, a list of its keys helps more than a similar key elsewhere.
            _ if path.is_empty() => unknown_key(self.schema, name),
            _ => unknown_name(name, fields),
        };
        let origin = self.origin(value);
        self.problem(&origin, &below(path, name), text);
    }

    /// The value of a field that is not written, or is written with a wrong value.
    fn default(&mut self, path: &str, field: &Field) -> Option<Json> {
        match (&field.presence, &field.shape) {
            (Presence::Default(value), _) => Some(value.clone()),
            (Presence::Always, Shape::Table(table)) => Some(self.table(path, table, &Dict::new()).0.into()),
            (Presence::Always, Shape::Patterns(table)) => Some(self.patterns(path, table, &Dict::new()).into()),
            _ => None,
        }
    }

    /// The value with defaults added, or `None` if it is unusable.
    fn field(&mut self, path: &str, field: &Field, value: &Value) -> Option<Json> {
        let from = self.origin(value);
        if field.later {
            self.problem(&from, path, "this version of Herald does not have this yet: remove the table");
            return None;
        }
        match (&field.shape, value) {
            (Shape::Table(table), Value::Dict(_, written)) => {
                // Only the transports themselves, not the tables inside them, such as `transports.tcp.tls`.
                if path == below("transports", field.name) {
                    self.transport(field.name, written, &from);
                }
                let (values, complete) = self.table(path, table, written);
                complete.0.then(|| values.into())
            }
            (Shape::Patterns(table), Value::Dict(_, written)) => Some(self.patterns(path, table, written).into()),
            (Shape::List(table), Value::Array(_, written)) => {
                Some(self.list(path, table, written, field.secret).into())
            }
            (Shape::Plugin(seam), Value::String(_, name)) => {
                if let Err(absent) = self.registry.find(*seam, name) {
                    self.problem(&from, path, absent.to_string());
                }
                // Kept instead of the default, whose keys are not those that were written.
                Some(name.as_str().into())
            }
            (Shape::Value(key), value) => {
                let value = to_json(value);
                match key.check(&value) {
                    Ok(()) => Some(value),
                    Err(text) => {
                        self.problem(&from, path, text);
                        None
                    }
                }
            }
            (_, value) => {
                let is_table = !matches!(field.shape, Shape::Plugin(_));
                let secret = if is_table { secret_of(value, field.secret) } else { field.secret };
                let text = format!("{}, found {}", self.expected(field), described(value, secret));
                self.problem(&from, path, text);
                None
            }
        }
    }

    /// Reports a transport that is enabled but not in this build.
    fn transport(&mut self, name: &str, written: &Dict, from: &Origin) {
        if matches!(written.get("enabled"), Some(Value::Bool(_, false))) {
            return;
        }
        if let Err(absent) = self.registry.find(Seam::Transport, name) {
            let text = format!("{absent}; or remove the table, or set enabled = false in it");
            self.problem(from, &below("transports", name), text);
        }
    }

    fn patterns(&mut self, path: &str, table: &Table, written: &Dict) -> Values {
        let mut values = Values::new();
        let nothing = Value::from(Dict::new());
        // The valid rules of "*": the other patterns inherit them, with their origins.
        let mut general = Dict::new();
        let star = "*".to_owned();
        let first = written.get_key_value("*").unwrap_or((&star, &nothing));
        for (pattern, value) in std::iter::once(first).chain(written.iter().filter(|(pattern, _)| *pattern != "*")) {
            let path = below(path, pattern);
            let Value::Dict(_, written) = value else {
                let origin = self.origin(value);
                let found = described(value, Secret::No);
                self.problem(&origin, &path, format!("expected a table with the rules of a topic, found {found}"));
                continue;
            };
            let mut whole = general.clone();
            whole.extend(written.clone());
            values.insert(pattern.clone(), self.table(&path, table, &whole).0.into());
            if pattern == "*" {
                let fits = |name: &str, value: &Value| match table.find(name).map(|field| &field.shape) {
                    Some(Shape::Value(key)) => key.check(&to_json(value)).is_ok(),
                    _ => false,
                };
                general = written.clone();
                general.retain(|name, value| fits(name, value));
            }
        }
        values
    }

    fn list(&mut self, path: &str, table: &Table, written: &[Value], secret: Secret) -> Vec<Json> {
        let mut values = Vec::new();
        for (index, value) in written.iter().enumerate() {
            let path = entry(path, index);
            let origin = self.origin(value);
            let Value::Dict(_, written) = value else {
                self.problem(
                    &origin,
                    &path,
                    format!("expected a table, found {}", described(value, secret_of(value, secret))),
                );
                continue;
            };
            if !table.kinds.is_empty() && !self.kind(&path, table, written, &origin) {
                continue;
            }
            let (entry, complete) = self.table(&path, table, written);
            if complete.0 {
                values.push(entry.into());
                if path.starts_with("sources[") {
                    self.sources.push(index);
                }
            }
        }
        values
    }

    /// Whether an entry of a list has a valid `kind`; reports it if not. Without one, none of its keys can be checked.
    fn kind(&mut self, path: &str, table: &Table, written: &Dict, origin: &Origin) -> bool {
        let kinds = || one_of(table.kinds.iter().map(|keys| keys.kind.kind));
        let (origin, text) = match written.get("kind") {
            None => (origin.clone(), format!("this key is missing: expected {}", kinds())),
            Some(kind) if table.kinds.iter().any(|keys| Some(keys.kind.kind) == kind.as_str()) => return true,
            Some(kind) => (self.origin(kind), format!("expected {}, found {}", kinds(), described(kind, Secret::No))),
        };
        self.problem(&origin, &below(path, "kind"), text);
        false
    }

    /// The phrase of a message that says which value is expected.
    fn expected(&self, field: &Field) -> String {
        match &field.shape {
            Shape::Value(key) => key.shape.expected(),
            Shape::Plugin(seam) => {
                format!("expected {}", one_of(self.registry.kinds(*seam).into_iter().map(|kind| kind.kind)))
            }
            Shape::Table(_) | Shape::Patterns(_) => "expected a table".to_owned(),
            Shape::List(_) => "expected a list of tables".to_owned(),
        }
    }

    /// The origin of a value; for a table with values of several layers, the first of them.
    fn origin(&self, value: &Value) -> Origin {
        match (origin(self.figment, value), value) {
            (Origin::Default, Value::Dict(_, inner)) => {
                let mut origins = inner.values().map(|value| self.origin(value));
                origins.find(|origin| *origin != Origin::Default).unwrap_or(Origin::Default)
            }
            (origin, _) => origin,
        }
    }
}

/// The secrecy of a value where a table was expected. Text may be the whole table, secrets included, that did not parse.
fn secret_of(value: &Value, secret: Secret) -> Secret {
    if matches!(value, Value::String(..)) { Secret::Whole } else { secret }
}

/// A value as a message describes it; for a secret, only its type.
fn described(value: &Value, secret: Secret) -> String {
    let value = to_json(value);
    if secret == Secret::No { found(&value) } else { type_of(&value).to_owned() }
}
