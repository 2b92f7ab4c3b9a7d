//! `herald config init`: a `herald.toml` that has every key with its default and says what it means.

use super::layers::{default_of, known_keys};
use super::path::below;
use super::schema::{Key, Presence, ROOT, Shape, Table};

const HEAD: &str = "\
# herald.toml: the configuration of Herald, as `herald config init` writes it. Every key is here with its default, so
# whatever is taken out stays as it is. What begins with `#` and a key is off, or has no default.
#
# The environment beats this file (HERALD_STORAGE__PATH=/var/lib/herald; `__` stands between levels), and
# `--set storage.path=/var/lib/herald` beats both. `herald config check` validates, `herald config show` prints what is
# in force and where each value comes from.
";

const SSE_EXAMPLE: &str = "\
# [[sources]]
# kind = \"sse\"
# name = \"wikipedia\"
# url = \"https://stream.wikimedia.org/v2/stream/recentchange\"
# topic = \"wiki.edits\"
# id = \"/meta/id\"
";

/// The text of a `herald.toml` that changes nothing.
#[must_use]
pub fn template() -> String {
    let mut out = HEAD.to_owned();
    table(&mut out, "", &ROOT, true);
    debug_assert!(known_keys().iter().all(|key| out.contains(key.rsplit('.').next().unwrap_or(key))));
    out
}

/// `live`: not commented out, because a table that is there turns nothing on.
fn table(out: &mut String, path: &str, table: &Table, live: bool) {
    for key in table.keys.iter().filter(|key| !has_header(key)) {
        line(out, key, live);
    }
    for key in table.keys.iter().filter(|key| has_header(key)) {
        let path = below(path, key.name);
        let live = live && default_of(key).is_some();
        let mark = if live { "" } else { "# " };
        match &key.shape {
            Shape::Table(inner) => {
                out.push('\n');
                comment(out, key.doc);
                if inner.keys.iter().any(|key| !has_header(key)) {
                    out.push_str(&format!("{mark}[{path}]\n"));
                }
                self::table(out, &path, inner, live);
            }
            Shape::Patterns(inner) => {
                out.push('\n');
                comment(out, key.doc);
                out.push_str(&format!("{mark}[{}]\n", below(&path, "*")));
                self::table(out, &below(&path, "*"), inner, live);
            }
            Shape::List(kinds) => {
                out.push('\n');
                comment(out, key.doc);
                out.push_str(SSE_EXAMPLE);
                for (kind, inner) in *kinds {
                    out.push_str(&format!("#\n# The keys of kind = \"{kind}\":\n#\n"));
                    if crate::registry::find(crate::registry::Seam::Source, kind).is_err() {
                        out.push_str("# (This build does not have it.)\n#\n");
                    }
                    self::table(out, &path, inner, false);
                }
            }
            _ => {}
        }
    }
}

fn has_header(key: &Key) -> bool {
    match key.shape {
        Shape::Table(_) | Shape::Patterns(_) => true,
        Shape::List(_) => matches!(key.presence, Presence::Absent),
        _ => false,
    }
}

fn comment(out: &mut String, doc: &str) {
    for line in doc.lines() {
        out.push_str(&format!("# {line}\n"));
    }
}

fn line(out: &mut String, key: &Key, live: bool) {
    comment(out, key.doc);
    let name = key.name;
    let written = match &key.presence {
        Presence::Default(default) => format!("{name} = {default}"),
        Presence::Computed(make) => format!("{name} = \"{}\"", make()),
        Presence::Required => format!("{name} = …   (has to be written)"),
        _ => format!("{name} = …   (no default)"),
    };
    let live = live && matches!(key.presence, Presence::Default(_) | Presence::Computed(_));
    out.push_str(&format!("{}{written}\n", if live { "" } else { "# " }));
}
