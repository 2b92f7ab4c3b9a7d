//! `herald config show`: the effective configuration as TOML, each value with where it came from.

use std::fmt::Write as _;

use figment::value::{Dict, Value};

use super::Loaded;
use super::check::integer;
use super::path::{below, entry, quoted};
use super::problem::Origin;
use super::schema::{Key, ROOT, Secret, Shape, Table};
use crate::secret::shown_url;

const HIDDEN: &str = "(hidden)";

/// The effective configuration: valid TOML, in the order of `herald config init`, secrets hidden.
#[must_use]
pub fn show(loaded: &Loaded) -> String {
    let mut show = Show { loaded, out: String::new() };
    show.table("", &ROOT, &loaded.values);
    show.out
}

struct Show<'a> {
    loaded: &'a Loaded,
    out: String,
}

impl Show<'_> {
    fn table(&mut self, path: &str, table: &Table, values: &Dict) {
        let (tables, leaves): (Vec<&Key>, Vec<&Key>) =
            table.keys.iter().partition(|key| is_table(key, values.get(key.name)));
        let leaves: Vec<(&Key, &Value)> =
            leaves.into_iter().filter_map(|key| Some((key, values.get(key.name)?))).collect();
        if !path.is_empty() && !leaves.is_empty() && !path.ends_with(']') {
            self.header(&format!("[{path}]"));
        }
        let lines: Vec<String> =
            leaves.iter().map(|(key, value)| format!("{} = {}", key.name, shown(value, key.secret))).collect();
        let width = lines.iter().map(|line| line.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
        for ((key, _), line) in leaves.iter().zip(&lines) {
            let origin = self.loaded.origins.get(&below(path, key.name)).unwrap_or(&Origin::Default);
            // Writing to a String cannot fail.
            let _ = writeln!(self.out, "{line:width$}  # {}", one_line(&origin.to_string()));
        }
        for key in tables {
            let Some(value) = values.get(key.name) else { continue };
            let path = below(path, key.name);
            match (&key.shape, value) {
                (Shape::Table(inner), Value::Dict(_, values)) => self.table(&path, inner, values),
                (Shape::Patterns(inner), Value::Dict(_, patterns)) => {
                    for (pattern, value) in patterns {
                        if let Value::Dict(_, values) = value {
                            self.table(&below(&path, pattern), inner, values);
                        }
                    }
                }
                (Shape::List(kinds), Value::Array(_, entries)) => {
                    for (at, value) in entries.iter().enumerate() {
                        let Value::Dict(_, values) = value else { continue };
                        let kind = values.get("kind").and_then(Value::as_str).unwrap_or_default();
                        if let Some((_, inner)) = kinds.iter().find(|(name, _)| *name == kind) {
                            self.header(&format!("[[{path}]]"));
                            self.table(&entry(&path, at), inner, values);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn header(&mut self, header: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.push_str(header);
        self.out.push('\n');
    }
}

/// Whether a key has a header of its own, instead of a line.
fn is_table(key: &Key, value: Option<&Value>) -> bool {
    match key.shape {
        Shape::Table(_) | Shape::Patterns(_) => true,
        Shape::List(_) => value.is_none_or(|value| matches!(value, Value::Array(_, items) if !items.is_empty())),
        _ => false,
    }
}

/// A file's name may hold anything; a comment ends with its line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn shown(value: &Value, secret: Secret) -> String {
    match (secret, value) {
        (Secret::Whole, Value::String(..)) => quoted(HIDDEN),
        (Secret::InUrl, Value::String(_, url)) => quoted(&shown_url(url)),
        _ => toml(value, secret),
    }
}

/// A value as TOML on one line.
fn toml(value: &Value, secret: Secret) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::String(_, text) => quoted(text),
        Value::Char(_, c) => quoted(&c.to_string()),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (integer(value), number.to_f64()) {
            (Some(n), _) => n.to_string(),
            (None, Some(n)) => format!("{n:?}"),
            (None, None) => "0".to_owned(),
        },
        Value::Empty(..) => "{}".to_owned(),
        Value::Array(_, items) => format!("[{}]", list(items.iter().map(|item| shown(item, secret)).collect())),
        Value::Dict(_, items) if items.is_empty() => "{}".to_owned(),
        Value::Dict(_, items) => {
            let items = items.iter().map(|(name, value)| format!("{} = {}", below("", name), shown(value, secret)));
            format!("{{ {} }}", list(items.collect()))
        }
    }
}
