//! The layers of a configuration, lowest first: built-in defaults, `herald.toml`, environment, `--set`.
//!
//! Each file, each variable and each `--set` is a figment provider of its own, so that figment's metadata of a value says
//! exactly where it came from.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::path::{below, quoted};
use super::problem::{Origin, Problem};
use super::schema::{Key, Presence, ROOT, Shape, Table};
use super::suggest::nearest;

/// The prefix of environment variables that are keys.
pub(crate) const PREFIX: &str = "HERALD_";

/// Variables with the prefix that are no keys: read by the command line.
pub(crate) const NOT_KEYS: [&str; 3] = ["HERALD_SERVER", "HERALD_TOKEN", "HERALD_CONFIG"];

/// What a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// In place of the file, or none.
    pub file: FileLayer,
    /// The environment; variables without the prefix are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// `key=value`, each beats the ones before.
    pub set: Vec<String>,
}

/// The layer above the defaults.
#[derive(Debug, Clone, Default)]
pub enum FileLayer {
    /// None.
    #[default]
    None,
    /// A file that has to be there.
    Named(PathBuf),
    /// A file that is taken if it is there.
    IfThere(PathBuf),
    /// What `herald demo` sets, as TOML.
    Demo(String),
}

impl Inputs {
    /// What `serve` and `config` read: the file (`./herald.toml` if none is named), this process's environment, `set`.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let file = file.map_or_else(|| FileLayer::IfThere(PathBuf::from("herald.toml")), FileLayer::Named);
        Self { file, environment: std::env::vars_os().collect(), set }
    }
}

/// One provider: values that all come from the same place.
struct Layer {
    origin: Origin,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        match &self.origin {
            Origin::Default => Metadata::named("default"),
            Origin::Demo => Metadata::named("demo"),
            Origin::File(path) => Metadata::from("file", Source::File(path.clone())),
            Origin::Variable(name) => Metadata::from("variable", Source::Custom(name.clone())),
            Origin::Set => Metadata::named("set"),
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// Where a value came from, by the metadata that figment kept for it.
pub(crate) fn origin(figment: &Figment, value: &Value) -> Origin {
    let Some(metadata) = figment.get_metadata(value.tag()) else { return Origin::Default };
    match (&*metadata.name, &metadata.source) {
        ("demo", _) => Origin::Demo,
        ("file", Some(Source::File(path))) => Origin::File(path.clone()),
        ("variable", Some(Source::Custom(name))) => Origin::Variable(name.clone()),
        ("set", _) => Origin::Set,
        _ => Origin::Default,
    }
}

/// Puts the layers together. What cannot be read is a problem, and its layer is left out.
pub(crate) fn merge(inputs: &Inputs) -> (Figment, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut figment = Figment::from(Layer { origin: Origin::Default, dict: defaults(&ROOT) });
    let mut add = |read: Result<Option<Layer>, Problem>| match read {
        Ok(None) => {}
        Ok(Some(layer)) => figment = std::mem::take(&mut figment).merge(layer),
        Err(problem) => problems.push(problem),
    };
    add(file_layer(&inputs.file));
    let mut variables: Vec<_> = inputs.environment.iter().collect();
    // In a fixed order, so that the problems are.
    variables.sort();
    for (name, value) in variables {
        add(variable_layer(name, value));
    }
    for set in &inputs.set {
        add(set_layer(set).map(Some));
    }
    (figment, problems)
}

/// The defaults of `table` and of the tables below it that are always there.
pub(crate) fn defaults(table: &Table) -> Dict {
    let mut dict = Dict::new();
    for key in table.keys {
        if let Some(value) = default_of(key) {
            dict.insert(key.name.to_owned(), value);
        }
    }
    dict
}

/// The default of `key`, if it has one.
pub(crate) fn default_of(key: &Key) -> Option<Value> {
    match (&key.presence, &key.shape) {
        (Presence::Default(toml), _) => Some(parse_value(toml).expect("the schema's defaults are TOML")),
        (Presence::Computed(make), _) => Some(make().into()),
        (Presence::Always, Shape::Table(table)) => Some(defaults(table).into()),
        (Presence::Always, Shape::Patterns(table)) => {
            Some(Dict::from([("*".to_owned(), defaults(table).into())]).into())
        }
        (Presence::DefaultTransport, Shape::Table(table)) if crate::registry::default_transport() == Some(key.name) => {
            Some(defaults(table).into())
        }
        _ => None,
    }
}

fn file_layer(file: &FileLayer) -> Result<Option<Layer>, Problem> {
    let (path, required) = match file {
        FileLayer::None => return Ok(None),
        FileLayer::Demo(text) => {
            let parsed = parse_document(text).map_err(|reason| Problem::new(Origin::Demo, "", reason))?;
            return Ok(Some(Layer { origin: Origin::Demo, dict: parsed }));
        }
        FileLayer::Named(path) => (path, true),
        FileLayer::IfThere(path) => (path, false),
    };
    let problem = |text: String| Problem::new(Origin::File(path.clone()), "", text);
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let dict = parse_document(&text).map_err(|reason| problem(format!("not valid TOML: {reason}")))?;
            Ok(Some(Layer { origin: Origin::File(path.clone()), dict }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(None),
        Err(error) => Err(problem(cannot_read(path, &error))),
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "there is no such file: name another with --config, or make it with: herald config init {}",
                path.display()
            )
        }
        io::ErrorKind::InvalidData => "the file is not UTF-8 text".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    }
}

fn variable_layer(name: &OsString, value: &OsString) -> Result<Option<Layer>, Problem> {
    let lossy = name.to_string_lossy();
    let Some(rest) = lossy.strip_prefix(PREFIX) else { return Ok(None) };
    if NOT_KEYS.contains(&&*lossy) {
        return Ok(None);
    }
    let origin = Origin::Variable(lossy.clone().into_owned());
    let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    let shape = shape_at(&path).map_err(|unknown| match unknown {
        Unknown::Inside(key) => Problem::new(origin.clone(), key, WHOLE_LIST),
        Unknown::Key => {
            let keys = known_keys();
            let hint = match nearest(&path.join("."), keys.iter().map(String::as_str)) {
                Some(key) => format!("did you mean {}?", variable_name(key)),
                None => "unset it, or see `herald config init` for the keys; `__` stands between levels".to_owned(),
            };
            Problem::new(origin.clone(), "", format!("this is no key: {hint}"))
        }
    })?;
    let text = value.to_str().ok_or_else(|| Problem::new(origin.clone(), "", "the value is not UTF-8 text"))?;
    Ok(Some(Layer { origin, dict: nest(&path, value_from_text(shape, text)) }))
}

fn set_layer(set: &str) -> Result<Layer, Problem> {
    let wrong = |key: &str, text: String| Problem::new(Origin::Set, key, text);
    let (written, value) = split_set(set)
        .ok_or_else(|| wrong("", format!("expected key=value, such as storage.path=data, found {}", quoted(set))))?;
    let path = parse_key(written).ok_or_else(|| {
        wrong("", format!("{} is no dotted key; quote what is not a word: topics.\"a.*\".ttl_ms", quoted(written)))
    })?;
    let key = path.iter().fold(String::new(), |path, name| below(&path, name));
    let shape = shape_at(&path).map_err(|unknown| match unknown {
        Unknown::Inside(list) => wrong(&list, WHOLE_LIST.to_owned()),
        Unknown::Key => wrong(&key, unknown_key(&key)),
    })?;
    Ok(Layer { origin: Origin::Set, dict: nest(&path, value_from_text(shape, value)) })
}

const WHOLE_LIST: &str = "this is a list: give the whole of it, in TOML, such as [{ kind = \"sse\", … }]";

/// What to say of a key that does not exist.
pub(crate) fn unknown_key(key: &str) -> String {
    let keys = known_keys();
    match nearest(key, keys.iter().map(String::as_str)) {
        Some(meant) => format!("unknown key: did you mean {meant}?"),
        None => "unknown key: see `herald config init` for those there are".to_owned(),
    }
}

/// The `=` that is not inside quotes divides key and value.
fn split_set(set: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in set.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((set[..at].trim(), set[at + 1..].trim())),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

fn parse_key(written: &str) -> Option<Vec<String>> {
    let mut dict = parse_document(&format!("{written} = 0")).ok()?;
    let mut path = Vec::new();
    loop {
        let (name, value) = dict.pop_first().filter(|_| dict.is_empty())?;
        path.push(name);
        match value {
            Value::Dict(_, inner) => dict = inner,
            _ => return Some(path),
        }
    }
}

enum Unknown {
    /// No such key.
    Key,
    /// It would lie inside this list.
    Inside(String),
}

fn shape_at(path: &[String]) -> Result<&'static Shape, Unknown> {
    static WHOLE: Shape = Shape::Table(&ROOT);
    let mut shape = &WHOLE;
    let mut so_far = String::new();
    let mut names = path.iter();
    while let Some(name) = names.next() {
        let table = match shape {
            Shape::Table(table) => table,
            Shape::Patterns(table) => {
                so_far = below(&so_far, name);
                let Some(inner) = names.next() else { return Ok(&Shape::TextMap) };
                shape = &table.key(inner).ok_or(Unknown::Key)?.shape;
                so_far = below(&so_far, inner);
                continue;
            }
            Shape::List(_) => return Err(Unknown::Inside(so_far)),
            _ => return Err(Unknown::Key),
        };
        shape = &table.key(name).ok_or(Unknown::Key)?.shape;
        so_far = below(&so_far, name);
    }
    Ok(shape)
}

/// Text from a variable or a command line: what the key wants decides, so `2024` can be a path and `info` needs no quotes.
fn value_from_text(shape: &Shape, text: &str) -> Value {
    let parsed = parse_value(text);
    match (shape, parsed) {
        // Quotes are taken off, as for everything else in TOML, but what looks like a number stays the text it is.
        (Shape::Text | Shape::Word(_) | Shape::Plugin(_), Some(value @ Value::String(..))) => value,
        (Shape::Text | Shape::Word(_) | Shape::Plugin(_), _) | (_, None) => text.into(),
        (_, Some(value)) => value,
    }
}

fn parse_value(text: &str) -> Option<Value> {
    let mut dict = parse_document(&format!("v = {text}")).ok()?;
    // More than one key: the text had a line break in it, and is no value.
    dict.remove("v").filter(|_| dict.is_empty())
}

fn parse_document(text: &str) -> Result<Dict, String> {
    let mut parsed = Toml::string(text).data().map_err(|error| error.kind.to_string())?;
    Ok(parsed.remove(&Profile::Default).unwrap_or_default())
}

fn nest(path: &[String], value: Value) -> Dict {
    let mut value = value;
    for name in path.iter().skip(1).rev() {
        value = Dict::from([(name.clone(), value)]).into();
    }
    path.first().map(|name| Dict::from([(name.clone(), value)])).unwrap_or_default()
}

/// Every key that a variable or `--set` can name, dotted.
pub(crate) fn known_keys() -> Vec<String> {
    fn collect(path: &str, table: &Table, keys: &mut Vec<String>) {
        for key in table.keys {
            let path = below(path, key.name);
            match &key.shape {
                Shape::Table(inner) => collect(&path, inner, keys),
                Shape::Patterns(inner) => collect(&below(&path, "*"), inner, keys),
                _ => {}
            }
            keys.push(path);
        }
    }
    let mut keys = Vec::new();
    collect("", &ROOT, &mut keys);
    keys
}

fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('"', "").replace('.', "__").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_split_at_the_first_equals_sign_outside_quotes() {
        assert_eq!(split_set("a.b = c=d"), Some(("a.b", "c=d")));
        assert_eq!(split_set("topics.\"a=b\".ttl_ms=1"), Some(("topics.\"a=b\".ttl_ms", "1")));
        assert_eq!(split_set("a.b"), None);
    }

    #[test]
    fn keys_are_parsed_as_toml_does() {
        assert_eq!(parse_key("topics.\"a.*\".ttl_ms"), Some(vec!["topics".into(), "a.*".into(), "ttl_ms".into()]));
        assert_eq!(parse_key("a b"), None);
        assert_eq!(parse_key("a\nb"), None);
        assert_eq!(parse_key(""), None);
    }

    #[test]
    fn text_becomes_what_the_key_wants() {
        let text = |text| value_from_text(&Shape::Text, text).into_string();
        assert_eq!(text("2024").as_deref(), Some("2024"));
        assert_eq!(text("true").as_deref(), Some("true"));
        assert_eq!(text("\"quoted\"").as_deref(), Some("quoted"));
        assert_eq!(text("").as_deref(), Some(""));
        assert_eq!(text("a\"b").as_deref(), Some("a\"b"));
        assert_eq!(text("a\nb = 1").as_deref(), Some("a\nb = 1"));
        let number = value_from_text(&Shape::Int(0, 9), "7");
        assert_eq!(number.to_i128(), Some(7));
        assert!(matches!(value_from_text(&Shape::Int(0, 9), "seven"), Value::String(..)));
        assert!(matches!(value_from_text(&Shape::Texts, "[\"a\"]"), Value::Array(..)));
    }
}
