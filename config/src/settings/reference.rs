//! `docs/configuration.md`: the reference of all keys, one row each.

use std::fmt::Write as _;

use broker_core::settings::{Secret, Shape as ValueShape};

use super::path::below;
use super::schema::{Field, Presence, Shape, schema};
use super::show::toml;
use crate::registry::Registry;

const HEAD: &str = "\
# Configuration

This page is generated from the keys that the broker and its plugins declare. After a change of a key, write it anew with
`BLESS=1 cargo test -p herald --features full reference`.

Herald reads `herald.toml` (`--config` names another file), then the environment, then `--set`; each overrides the ones before.
`storage.path` is `HERALD_STORAGE__PATH` in the environment (`__` stands between levels) and `--set storage.path=…` on the command
line; a list is given as a whole, in TOML. `herald config init` writes a commented file, `herald config check` validates one, and
`herald config show` prints the values in force with the origin of each.

An unknown key, a wrong type and a value out of range are errors; nothing is ignored. **SIGHUP** applies the keys marked so; every
other change takes a restart, and the log names it. A **secret** is hidden wherever it would be printed.

";

/// The page for the plugins of `registry`.
#[must_use]
pub fn reference(registry: &Registry) -> String {
    let mut out = HEAD.to_owned();
    for field in &schema(registry).fields {
        section(&mut out, field.name, field);
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn section(out: &mut String, path: &str, field: &Field) {
    let (header, inner, path) = match &field.shape {
        Shape::Table(inner) => (format!("[{path}]"), inner, path.to_owned()),
        Shape::Patterns(inner) => (format!("[{}]", below(path, "*")), inner, below(path, "*")),
        Shape::List(inner) => (format!("[[{path}]]"), inner, format!("{path}[]")),
        Shape::Value(_) | Shape::Plugin(_) => return,
    };
    if field.later || inner.open {
        return;
    }
    // Writing to a String cannot fail.
    let _ = write!(out, "## `{header}`\n\n{}\n\n", field.doc.replace('\n', " "));
    rows(out, &path, inner.fields.iter().filter(|field| has_row(field)));
    for keys in &inner.kinds {
        let _ = write!(out, "### `{header}` with `kind = \"{}\"`\n\n{}", keys.kind.kind, keys.kind.doc);
        let _ = write!(out, " Feature `{}`.\n\n", keys.kind.feature);
        rows(out, &path, keys.fields.iter());
    }
    for field in inner.fields.iter().filter(|field| !has_row(field)) {
        section(out, &below(&path, field.name), field);
    }
}

/// Whether a field has a row in its parent's table: a value, or a small table such as `tls`, which is written on one line.
fn has_row(field: &Field) -> bool {
    let is_required = |field: &Field| matches!(field.presence, Presence::Required);
    match &field.shape {
        Shape::Table(table) => {
            matches!(field.presence, Presence::Optional)
                && !table.fields.is_empty()
                && table.fields.iter().all(is_required)
        }
        _ => !field.has_header(),
    }
}

fn rows<'a>(out: &mut String, path: &str, fields: impl Iterator<Item = &'a Field> + Clone) {
    if fields.clone().next().is_none() {
        return;
    }
    out.push_str("| Key | Type | Default | Description |\n| --- | --- | --- | --- |\n");
    for field in fields {
        row(out, path, field);
        let (inner, path) = match &field.shape {
            Shape::List(inner) => (inner, format!("{}[]", below(path, field.name))),
            Shape::Table(inner) => (inner, below(path, field.name)),
            _ => continue,
        };
        for inner in &inner.fields {
            row(out, &path, inner);
        }
    }
    out.push('\n');
}

fn row(out: &mut String, path: &str, field: &Field) {
    let default = match &field.presence {
        Presence::Default(default) => format!("`{}`", toml(default, Secret::No)),
        Presence::Required => "required".to_owned(),
        Presence::Optional | Presence::Always => String::new(),
    };
    let mut doc = field.doc.replace('\n', " ");
    if field.reload {
        doc.push_str(" **SIGHUP.**");
    }
    if field.secret != Secret::No {
        doc.push_str(" **Secret.**");
    }
    let cell = |text: &str| text.replace('|', "\\|");
    let key = below(path, field.name);
    let _ = writeln!(out, "| `{}` | {} | {} | {} |", key, cell(&type_of(field)), cell(&default), cell(&doc));
}

/// The type and range of a field.
fn type_of(field: &Field) -> String {
    let shape = match &field.shape {
        Shape::Plugin(_) => return "name of a plugin".to_owned(),
        Shape::Table(_) | Shape::Patterns(_) => return "table".to_owned(),
        Shape::List(_) => return "list of tables".to_owned(),
        Shape::Value(key) => key.shape,
    };
    match shape {
        ValueShape::Bool => "boolean".to_owned(),
        ValueShape::Int(least, most) => format!("integer, {least} to {most}"),
        ValueShape::Text => "string".to_owned(),
        ValueShape::Path(what) => format!("path of a {what}"),
        ValueShape::Address => "`host:port`".to_owned(),
        ValueShape::Word(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" | "),
        ValueShape::Texts => "list of strings".to_owned(),
        ValueShape::TextOrTexts => "string or list of strings".to_owned(),
        ValueShape::Range(most) => format!("two integers, 0 to {most}"),
        ValueShape::TextMap => "table of strings".to_owned(),
        ValueShape::Priority => "integer, JSON pointer, or `{ random = [lo, hi] }`".to_owned(),
        ValueShape::Table(_) => "table".to_owned(),
        ValueShape::List(_) => "list of tables".to_owned(),
    }
}

#[cfg(test)]
#[cfg(all(
    feature = "json-log",
    feature = "sled",
    feature = "sqlite",
    feature = "tcp",
    feature = "ws",
    feature = "sse",
    feature = "mongodb",
    feature = "pipeline"
))]
mod tests {
    use super::*;
    use crate::settings::schema::Table;

    #[test]
    fn the_committed_reference_is_what_the_keys_generate() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let generated = reference(&Registry::built_in());
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == generated, "docs/configuration.md is out of date: see its first paragraph");
    }

    #[test]
    fn every_key_that_can_be_set_has_one_row_for_each_place_that_has_it() {
        fn collect(path: &str, table: &Table, keys: &mut Vec<String>) {
            for field in table.all().filter(|field| !field.later) {
                let path = below(path, field.name);
                match &field.shape {
                    Shape::Table(inner) if inner.open => continue,
                    Shape::Table(inner) => collect(&path, inner, keys),
                    Shape::Patterns(inner) => collect(&below(&path, "*"), inner, keys),
                    Shape::List(inner) => collect(&format!("{path}[]"), inner, keys),
                    Shape::Value(_) | Shape::Plugin(_) => keys.push(path),
                }
            }
        }
        let registry = Registry::built_in();
        let mut keys = Vec::new();
        collect("", &schema(&registry), &mut keys);
        assert!(keys.len() > 100, "{keys:?}");
        let page = reference(&registry);
        for key in &keys {
            let rows = page.matches(&format!("\n| `{key}` | ")).count();
            assert_eq!(rows, keys.iter().filter(|other| *other == key).count(), "{key}");
        }
    }
}
