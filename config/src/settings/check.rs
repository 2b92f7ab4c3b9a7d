//! Checks the merged layers against the schema: every unknown key, wrong type and missing key at once.
//!
//! What it hands on is complete and has the right types, with defaults in place of what was wrong, so that the checks of
//! meaning that follow can report their problems as well.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider as _};

use super::layers::{default_of, origin, unknown_key};
use super::path::{below, entry, quoted};
use super::problem::{Origin, Problem};
use super::schema::{Key, Presence, ROOT, Secret, Shape, Table};
use super::suggest::nearest;
use crate::registry::{self, Seam};

/// A configuration with the right keys and types.
pub(crate) struct Checked {
    /// All keys, with defaults.
    pub(crate) values: Dict,
    /// Where the value of each key came from, by its path.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// Which entries of `sources` were good enough to be in `values`, by their place in what was written.
    pub(crate) sources: Vec<usize>,
}

/// Checks `figment`'s values and adds what is wrong to `problems`.
pub(crate) fn check(figment: &Figment, problems: &mut Vec<Problem>) -> Checked {
    let mut check = Check { figment, problems, origins: BTreeMap::new(), sources: Vec::new() };
    let mut profiles = figment.data().unwrap_or_default();
    let written = profiles.remove(&Profile::Default).unwrap_or_default();
    let values = check.table("", &ROOT, &written).0;
    Checked { values, origins: check.origins, sources: check.sources }
}

struct Check<'a> {
    figment: &'a Figment,
    problems: &'a mut Vec<Problem>,
    origins: BTreeMap<String, Origin>,
    sources: Vec<usize>,
}

/// Whether everything that has to be there was.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Complete(bool);

impl Check<'_> {
    fn problem(&mut self, origin: &Origin, key: &str, text: impl Into<String>) {
        self.problems.push(Problem::new(origin.clone(), key, text));
    }

    fn table(&mut self, path: &str, table: &'static Table, written: &Dict) -> (Dict, Complete) {
        for (name, value) in written {
            if table.key(name).is_none() {
                let key = below(path, name);
                let near = nearest(name, table.keys.iter().map(|key| key.name));
                let text = match near {
                    Some(near) => format!("unknown key: did you mean {near}?"),
                    // In a small table, what there is says more than a key elsewhere with a similar name.
                    None if path.is_empty() => unknown_key(&key),
                    None => {
                        let names: Vec<&str> = table.keys.iter().map(|key| key.name).collect();
                        format!("unknown key: expected one of {}", names.join(", "))
                    }
                };
                let origin = self.origin(value);
                self.problem(&origin, &key, text);
            }
        }
        let mut values = Dict::new();
        let mut complete = true;
        let owner = written.values().map(|value| self.origin(value)).find(|origin| *origin != Origin::Default);
        for key in table.keys {
            let path = below(path, key.name);
            let value = match written.get(key.name) {
                Some(value) => {
                    let origin = self.origin(value);
                    self.origins.insert(path.clone(), origin);
                    self.key(&path, key, value).or_else(|| default_of(key))
                }
                None => {
                    if matches!(key.presence, Presence::Required) {
                        let text = format!("this key is missing: {}", expected(&key.shape));
                        self.problem(&owner.clone().unwrap_or(Origin::Default), &path, text);
                    }
                    self.origins.insert(path, Origin::Default);
                    default_of(key)
                }
            };
            match value {
                Some(value) => {
                    values.insert(key.name.to_owned(), value);
                }
                None => complete &= !matches!(key.presence, Presence::Required),
            }
        }
        (values, Complete(complete))
    }

    /// The value, completed, or `None` if it is of no use.
    fn key(&mut self, path: &str, key: &'static Key, value: &Value) -> Option<Value> {
        let from = self.origin(value);
        let checked = self.shape(path, key, value, &from);
        if checked.is_some() && key.later && default_of(key).as_ref().is_none_or(|default| !same(default, value)) {
            let advice = match &key.presence {
                Presence::Default(default) => format!("leave it at its default, {default}"),
                _ if matches!(key.shape, Shape::Table(_)) => "remove the table".to_owned(),
                _ => "remove the key".to_owned(),
            };
            self.problem(&from, path, format!("this version of Herald does not have this yet: {advice}"));
            return None;
        }
        checked
    }

    fn shape(&mut self, path: &str, key: &'static Key, value: &Value, from: &Origin) -> Option<Value> {
        let right = match (&key.shape, value) {
            (Shape::Table(table), Value::Dict(tag, written)) => {
                if path.starts_with("transports.")
                    && path.matches('.').count() == 1
                    && !self.transport(key.name, written, from)
                {
                    return None;
                }
                let (values, complete) = self.table(path, table, written);
                return complete.0.then_some(Value::Dict(*tag, values));
            }
            (Shape::Patterns(table), Value::Dict(tag, written)) => {
                return Some(Value::Dict(*tag, self.patterns(path, table, written)));
            }
            (Shape::List(kinds), Value::Array(tag, written)) => {
                return Some(Value::Array(*tag, self.list(path, kinds, written, key.secret)));
            }
            (Shape::Plugin(seam), Value::String(_, name)) => {
                return match registry::find(*seam, name) {
                    Ok(_) => Some(value.clone()),
                    Err(absent) => {
                        self.problem(from, path, absent.to_string());
                        None
                    }
                };
            }
            (Shape::Word(words), Value::String(_, word)) => words.contains(&word.as_str()),
            (Shape::Bool, Value::Bool(..)) | (Shape::Text, Value::String(..)) => true,
            (Shape::Int(least, most), Value::Num(..)) => integer(value).is_some_and(|n| (*least..=*most).contains(&n)),
            (Shape::Texts, Value::Array(_, items)) => items.iter().all(|item| item.as_str().is_some()),
            (Shape::TextOrTexts, Value::String(..)) => true,
            (Shape::TextOrTexts, Value::Array(_, items)) => {
                !items.is_empty() && items.iter().all(|item| item.as_str().is_some())
            }
            (Shape::TextMap, Value::Dict(_, items)) => items.values().all(|item| item.as_str().is_some()),
            (Shape::Range, Value::Array(_, items)) => pair(items).is_some_and(|(low, high)| 0 <= low && low <= high),
            (Shape::Priority, value) => is_priority(value),
            _ => false,
        };
        if right {
            return Some(value.clone());
        }
        let found = if key.secret == Secret::No { found(value) } else { kind(value).to_owned() };
        let mut text = format!("{}, found {found}", expected(&key.shape));
        if let (Shape::Word(words), Some(word)) = (&key.shape, value.as_str())
            && let Some(near) = nearest(word, words.iter().copied())
        {
            text.push_str(&format!("; did you mean {}?", quoted(near)));
        }
        self.problem(from, path, text);
        None
    }

    /// Whether the transport of this table is to be looked at any further.
    fn transport(&mut self, name: &'static str, written: &Dict, from: &Origin) -> bool {
        let off = matches!(written.get("enabled"), Some(Value::Bool(_, false)));
        if off {
            return true;
        }
        let Err(absent) = registry::find(Seam::Transport, name) else { return true };
        // Its own origin is that of the layer that began it; what a person wrote is what counts.
        let wrote = written.values().map(|value| self.origin(value)).find(|origin| *origin != Origin::Default);
        let text = format!("{absent}; or remove the table, or set enabled = false in it");
        self.problem(&wrote.unwrap_or_else(|| from.clone()), &below("transports", name), text);
        // Its keys are looked at all the same.
        true
    }

    fn patterns(&mut self, path: &str, table: &'static Table, written: &Dict) -> Dict {
        let mut values = Dict::new();
        let mut general = Dict::new();
        // "*" first: the others take from it what they do not say.
        let in_order =
            written.get_key_value("*").into_iter().chain(written.iter().filter(|(pattern, _)| *pattern != "*"));
        for (pattern, value) in in_order {
            let path = below(path, pattern);
            let Value::Dict(tag, written) = value else {
                let origin = self.origin(value);
                self.problem(
                    &origin,
                    &path,
                    format!("expected a table with the rules of a topic, found {}", found(value)),
                );
                continue;
            };
            let mut whole = general.clone();
            whole.extend(written.clone());
            let rules = self.table(&path, table, &whole).0;
            if pattern == "*" {
                general.clone_from(&rules);
            }
            values.insert(pattern.clone(), Value::Dict(*tag, rules));
        }
        values
    }

    fn list(
        &mut self,
        path: &str,
        kinds: &'static [(&'static str, &'static Table)],
        written: &[Value],
        secret: Secret,
    ) -> Vec<Value> {
        let mut values = Vec::new();
        for (index, value) in written.iter().enumerate() {
            let path = entry(path, index);
            let origin = self.origin(value);
            let Value::Dict(tag, written) = value else {
                let found = if secret == Secret::No { found(value) } else { kind(value).to_owned() };
                self.problem(&origin, &path, format!("expected a table, found {found}"));
                continue;
            };
            let table = match kinds {
                [("", only)] => *only,
                _ => match written.get("kind").map(|kind| (kind, kind.as_str())) {
                    None => {
                        let text =
                            format!("this key is missing: expected {}", one_of(kinds.iter().map(|(kind, _)| *kind)));
                        self.problem(&origin, &below(&path, "kind"), text);
                        continue;
                    }
                    Some((_, Some(kind))) if kinds.iter().any(|(known, _)| *known == kind) => {
                        kinds.iter().find(|(known, _)| *known == kind).map(|(_, table)| *table).unwrap_or(kinds[0].1)
                    }
                    Some((value, _)) => {
                        let origin = self.origin(value);
                        let text =
                            format!("expected {}, found {}", one_of(kinds.iter().map(|(kind, _)| *kind)), found(value));
                        self.problem(&origin, &below(&path, "kind"), text);
                        continue;
                    }
                },
            };
            let (entry, complete) = self.table(&path, table, written);
            if complete.0 {
                values.push(Value::Dict(*tag, entry));
                if path.starts_with("sources[") {
                    self.sources.push(index);
                }
            }
        }
        values
    }

    /// Where a value came from; for a table that holds values of several layers, the first of them that is no default.
    fn origin(&self, value: &Value) -> Origin {
        match (origin(self.figment, value), value) {
            (Origin::Default, Value::Dict(_, inner)) => {
                let origins = inner.values().map(|value| self.origin(value));
                origins.into_iter().find(|origin| *origin != Origin::Default).unwrap_or(Origin::Default)
            }
            (origin, _) => origin,
        }
    }
}

/// Equal, wherever they came from.
fn same(a: &Value, b: &Value) -> bool {
    // figment compares values without their tags.
    a == b || integer(a).is_some_and(|n| Some(n) == integer(b))
}

/// The value as an integer, if it is one.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value {
        // A float is not an integer, even if it has no fraction: TOML tells them apart.
        Value::Num(_, number) if number.to_f64().is_none() => value.to_i128().and_then(|n| i64::try_from(n).ok()),
        _ => None,
    }
}

fn pair(items: &[Value]) -> Option<(i64, i64)> {
    match items {
        [low, high] => Some((integer(low)?, integer(high)?)),
        _ => None,
    }
}

fn is_priority(value: &Value) -> bool {
    let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
    match value {
        Value::Num(..) => integer(value).is_some_and(|n| range.contains(&n)),
        Value::String(_, pointer) => pointer.starts_with('/'),
        Value::Dict(_, random) => match (random.len(), random.get("random")) {
            (1, Some(Value::Array(_, items))) => {
                pair(items).is_some_and(|(low, high)| low <= high && range.contains(&low) && range.contains(&high))
            }
            _ => false,
        },
        _ => false,
    }
}

/// What a value of this shape looks like, as `expected …`.
fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Bool => "expected true or false".to_owned(),
        Shape::Int(least, most) => format!("expected an integer from {least} to {most}"),
        Shape::Text => "expected a string".to_owned(),
        Shape::Word(words) => format!("expected {}", one_of(words.iter().copied())),
        Shape::Plugin(seam) => format!("expected {}", one_of(registry::kinds(*seam))),
        Shape::Texts => "expected a list of strings".to_owned(),
        Shape::TextOrTexts => "expected a string or a list of strings".to_owned(),
        Shape::Range => "expected two integers, the smaller first, such as [50, 500]".to_owned(),
        Shape::TextMap => "expected a table of strings".to_owned(),
        Shape::Priority => {
            "expected an integer of 32 bits, a JSON pointer such as \"/priority\", or { random = [lo, hi] }".to_owned()
        }
        Shape::Table(_) | Shape::Patterns(_) => "expected a table".to_owned(),
        Shape::List(_) => "expected a list of tables".to_owned(),
    }
}

/// `"a", "b" or "c"`.
pub(crate) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(quoted).collect();
    match words.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// A value as an error shows it.
fn found(value: &Value) -> String {
    const MOST: usize = 60;
    match value {
        Value::String(_, text) if text.chars().count() > MOST => {
            let cut: String = text.chars().take(MOST).collect();
            format!("the string {}…", quoted(&cut))
        }
        Value::String(_, text) => format!("the string {}", quoted(text)),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (integer(value), number.to_f64()) {
            (Some(n), _) => n.to_string(),
            (None, Some(n)) => format!("the number {n:?}"),
            (None, None) => "a number that is too large".to_owned(),
        },
        other => kind(other).to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "a string",
        Value::Bool(..) => "a boolean",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    }
}
