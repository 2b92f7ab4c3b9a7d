//! `herald config show`: the effective configuration as TOML, each value with its origin.

use std::fmt::Write as _;

use broker_core::settings::text::quoted;
use broker_core::settings::{Secret, Values, shown_url};
use serde_json::Value;

use super::Loaded;
use super::path::{below, entry};
use super::problem::Origin;
use super::schema::{Field, Shape, Table};

const HIDDEN: &str = "(hidden)";

/// The effective configuration: valid TOML, in the order of `herald config init`, secrets hidden.
#[must_use]
pub fn show(loaded: &Loaded) -> String {
    let mut show = Show { loaded, out: String::new() };
    show.table("", &loaded.schema, &loaded.values);
    show.out
}

struct Show<'a> {
    loaded: &'a Loaded,
    out: String,
}

impl Show<'_> {
    fn table(&mut self, path: &str, table: &Table, values: &Values) {
        let fields = table.of_kind(values.get("kind").and_then(Value::as_str));
        let (tables, leaves): (Vec<&Field>, Vec<&Field>) =
            fields.partition(|field| is_table(field, values.get(field.name)));
        let leaves: Vec<(&Field, &Value)> =
            leaves.into_iter().filter_map(|field| Some((field, values.get(field.name)?))).collect();
        if !path.is_empty() && !leaves.is_empty() && !path.ends_with(']') {
            self.header(&format!("[{path}]"));
        }
        let lines: Vec<String> =
            leaves.iter().map(|(field, value)| format!("{} = {}", field.name, shown(value, field.secret))).collect();
        let width = lines.iter().map(|line| line.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
        for ((field, _), line) in leaves.iter().zip(&lines) {
            let origin = self.loaded.origins.get(&below(path, field.name)).unwrap_or(&Origin::Default);
            // Writing to a String cannot fail.
            let _ = writeln!(self.out, "{line:width$}  # {}", one_line(&origin.to_string()));
        }
        for field in tables {
            let Some(value) = values.get(field.name) else { continue };
            let path = below(path, field.name);
            match (&field.shape, value) {
                (Shape::Table(inner), Value::Object(values)) => self.table(&path, inner, values),
                (Shape::Patterns(inner), Value::Object(patterns)) => {
                    for (pattern, value) in patterns {
                        if let Value::Object(values) = value {
                            self.table(&below(&path, pattern), inner, values);
                        }
                    }
                }
                (Shape::List(inner), Value::Array(entries)) => {
                    for (at, value) in entries.iter().enumerate() {
                        if let Value::Object(values) = value {
                            self.header(&format!("[[{path}]]"));
                            self.table(&entry(&path, at), inner, values);
                        }
                    }
                }
                // A value that its key describes as a table, such as `headers`, has a line of its own.
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

/// Whether a field has a header of its own, instead of a line.
fn is_table(field: &Field, value: Option<&Value>) -> bool {
    match field.shape {
        Shape::Table(_) | Shape::Patterns(_) => true,
        Shape::List(_) => value.is_none_or(|value| matches!(value, Value::Array(items) if !items.is_empty())),
        Shape::Value(_) | Shape::Plugin(_) => false,
    }
}

/// The origin as one line of a comment: the name of a file may hold any character.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn shown(value: &Value, secret: Secret) -> String {
    match (secret, value) {
        (Secret::Whole, Value::String(_)) => quoted(HIDDEN),
        (Secret::InUrl, Value::String(url)) => quoted(&shown_url(url)),
        _ => toml(value, secret),
    }
}

/// A value as TOML on one line, its secrets hidden.
pub(super) fn toml(value: &Value, secret: Secret) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::String(text) => quoted(text),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Null => "{}".to_owned(),
        Value::Array(items) => format!("[{}]", list(items.iter().map(|item| shown(item, secret)).collect())),
        Value::Object(items) if items.is_empty() => "{}".to_owned(),
        Value::Object(items) => {
            let items = items.iter().map(|(name, value)| format!("{} = {}", below("", name), shown(value, secret)));
            format!("{{ {} }}", list(items.collect()))
        }
    }
}
