//! `herald config init`: a `herald.toml` with every key, its default and its documentation.

use broker_core::settings::Secret;

use super::global_schema;
use super::lookup::known_keys;
use super::path::below;
use super::schema::{Field, KindKeys, Presence, Shape, Table};
use super::show::toml;

const HEAD: &str = "\
# herald.toml: the configuration of Herald, as `herald config init` writes it. Every key is here with its default, so
# removing a line changes nothing. A line that begins with `#` and a key is off, or the key has no default.
#
# The environment beats this file (HERALD_STORAGE__PATH=/var/lib/herald; `__` stands between levels), and
# `--set storage.path=/var/lib/herald` beats both. `herald config check` validates, `herald config show` prints the values
# in force and the origin of each.
";

const SSE_EXAMPLE: &str = "\
# [[sources]]
# kind = \"sse\"
# name = \"wikipedia\"
# url = \"https://stream.wikimedia.org/v2/stream/recentchange\"
# topic = \"wiki.edits\"
# id = \"/meta/id\"
";

/// The text of a `herald.toml` with every key at its default, for the plugins of this build.
#[must_use]
pub fn template() -> String {
    let schema = global_schema();
    let mut out = HEAD.to_owned();
    table(&mut out, "", schema, true);
    debug_assert!(known_keys(schema).iter().all(|key| out.contains(key.rsplit('.').next().unwrap_or(key))));
    out
}

/// Writes `table` and the tables below it. `live` tables are not commented out: their presence turns nothing on.
fn table(out: &mut String, path: &str, table: &Table, live: bool) {
    for field in table.fields.iter().filter(|field| !field.has_header()) {
        line(out, field, live);
    }
    for keys in &table.kinds {
        let default = table.find("kind").and_then(Field::default);
        let is_default = default.is_some_and(|kind| kind == keys.kind.kind);
        kind(out, keys, live && is_default);
    }
    for field in table.fields.iter().filter(|field| field.has_header()) {
        section(out, &below(path, field.name), field, live);
    }
}

/// Writes the keys that a table has with this `kind`.
fn kind(out: &mut String, keys: &KindKeys, live: bool) {
    let kind = keys.kind.kind;
    if !keys.kind.is_built() {
        let feature = keys.kind.feature;
        out.push_str(&format!("#\n# kind = \"{kind}\": this build does not have it; its feature is {feature}.\n"));
        return;
    }
    out.push_str(&format!("#\n# kind = \"{kind}\": {}\n#\n", keys.kind.doc));
    for field in &keys.fields {
        line(out, field, live);
    }
}

fn section(out: &mut String, path: &str, field: &Field, live: bool) {
    let live = live && matches!(field.presence, Presence::Always);
    let mark = if live { "" } else { "# " };
    out.push('\n');
    comment(out, field.doc);
    match &field.shape {
        Shape::Table(inner) => {
            if inner.fields.iter().any(|field| !field.has_header()) || inner.open {
                out.push_str(&format!("{mark}[{path}]\n"));
            }
            table(out, path, inner, live);
        }
        Shape::Patterns(inner) => {
            let path = below(path, "*");
            out.push_str(&format!("{mark}[{path}]\n"));
            table(out, &path, inner, live);
        }
        Shape::List(inner) => {
            out.push_str(SSE_EXAMPLE);
            out.push_str("#\n# The keys of every kind:\n#\n");
            table(out, path, inner, false);
        }
        Shape::Value(_) | Shape::Plugin(_) => line(out, field, live),
    }
}

fn comment(out: &mut String, doc: &str) {
    for line in doc.lines() {
        out.push_str(&format!("# {line}\n"));
    }
}

fn line(out: &mut String, field: &Field, live: bool) {
    comment(out, field.doc);
    let name = field.name;
    let (written, live) = match &field.presence {
        Presence::Default(default) => (format!("{name} = {}", toml(default, Secret::No)), live),
        Presence::Required => (format!("{name} = …   (required)"), false),
        Presence::Optional | Presence::Always => (format!("{name} = …   (no default)"), false),
    };
    out.push_str(&format!("{}{written}\n", if live { "" } else { "# " }));
}
