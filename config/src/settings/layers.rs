//! The layers of a configuration, lowest first: `herald.toml`, environment, `--set`. The check adds the defaults.
//!
//! Each file, each variable and each `--set` is a figment provider of its own, so that figment's metadata names the exact
//! origin of every value. Only this file and `check` know figment.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use broker_core::settings::text::{nearest, quoted};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use serde_json::Number;

use super::lookup::{self, Unknown, Wanted, find};
use super::path::below;
use super::problem::{Origin, Problem};
use super::schema::Table;
use super::service_link;

/// Variables with the prefix that are no keys; the command line reads them.
const NOT_KEYS: [&str; 3] = ["HERALD_SERVER", "HERALD_TOKEN", "HERALD_CONFIG"];

/// The inputs of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The file, or what takes its place.
    pub file: FileLayer,
    /// The environment; variables without the prefix are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// `key=value` assignments; each overrides those before it.
    pub set: Vec<String>,
}

/// The file layer, the lowest above the defaults.
#[derive(Debug, Clone, Default)]
pub enum FileLayer {
    /// None.
    #[default]
    None,
    /// A file that must exist.
    Named(PathBuf),
    /// A file that is read if it exists.
    IfThere(PathBuf),
    /// The settings of `herald demo`, as TOML.
    Demo(String),
}

impl Inputs {
    /// The inputs of `serve` and `config`: the file (`./herald.toml` if none is named), this process's environment, and `set`.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let file = file.map_or_else(|| FileLayer::IfThere(PathBuf::from("herald.toml")), FileLayer::Named);
        Self { file, environment: std::env::vars_os().collect(), set }
    }
}

/// One provider: values with a common origin.
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

/// The origin of a value, from the metadata that figment kept for it.
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

/// Merges the layers. A layer that cannot be read becomes a problem and is left out.
pub(crate) fn merge(inputs: &Inputs, schema: &Table) -> (Figment, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut figment = Figment::new();
    let mut add = |read: Result<Option<Layer>, Problem>| match read {
        Ok(None) => {}
        Ok(Some(layer)) => figment = std::mem::take(&mut figment).merge(layer),
        Err(problem) => problems.push(problem),
    };
    add(file_layer(&inputs.file));
    let mut variables: Vec<_> = inputs.environment.iter().collect();
    // Sorted, so that the problems are reported in a fixed order.
    variables.sort();
    for (name, value) in variables {
        add(variable_layer(schema, name, value));
    }
    for set in &inputs.set {
        add(set_layer(schema, set).map(Some));
    }
    (figment, problems)
}

/// A value without its origin.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, c) => c.to_string().into(),
        Value::Bool(_, value) => (*value).into(),
        Value::Num(_, number) => match (number.to_f64(), value.to_i128().and_then(|n| i64::try_from(n).ok())) {
            // A float is not an integer, even without a fraction: TOML tells them apart.
            (Some(float), _) => Number::from_f64(float).map_or(serde_json::Value::Null, Into::into),
            (None, integer) => integer.map_or(serde_json::Value::Null, Into::into),
        },
        Value::Empty(..) => serde_json::Value::Null,
        Value::Dict(_, dict) => dict.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
        Value::Array(_, items) => items.iter().map(to_json).collect(),
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

fn variable_layer(schema: &Table, name: &OsString, value: &OsString) -> Result<Option<Layer>, Problem> {
    let lossy = name.to_string_lossy();
    let Some(rest) = lossy.strip_prefix(lookup::PREFIX) else { return Ok(None) };
    if NOT_KEYS.contains(&&*lossy) {
        return Ok(None);
    }
    let origin = Origin::Variable(lossy.clone().into_owned());
    let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    if let Some(written) =
        rest.strip_prefix("TOPICS__").or_else(|| rest.strip_prefix("topics__")).and_then(|rest| rest.split("__").next())
        && written.chars().any(char::is_lowercase)
        && written.chars().any(char::is_uppercase)
    {
        let topic = written.to_lowercase();
        return Err(Problem::new(
            origin,
            "",
            format!(
                "names in variables are read in lower case, so this would set a rule of the topic {}: write {} for that, or set the \
                 rule of {} in the file or with --set 'topics.{}.…'",
                quoted(&topic),
                lossy.to_uppercase(),
                quoted(written),
                quoted(written)
            ),
        ));
    }
    let found = find(schema, &path);
    if matches!(found, Err(Unknown::Key)) && service_link::is_one(rest, &value.to_string_lossy()) {
        return Ok(None);
    }
    let wanted = found.map_err(|unknown| match unknown {
        Unknown::Inside(key) => Problem::new(origin.clone(), key, WHOLE_LIST),
        Unknown::Key => {
            let keys = lookup::known_keys(schema);
            let hint = match nearest(&path.join("."), keys.iter().map(String::as_str)) {
                Some(key) => format!("did you mean {}?", lookup::variable_name(key)),
                None => "unset it, or see `herald config init` for the keys; `__` stands between levels".to_owned(),
            };
            Problem::new(origin.clone(), "", format!("this is no key: {hint}"))
        }
    })?;
    let text = value.to_str().ok_or_else(|| Problem::new(origin.clone(), "", "the value is not UTF-8 text"))?;
    Ok(Some(Layer { origin, dict: nest(&path, value_from_text(wanted, text)) }))
}

fn set_layer(schema: &Table, set: &str) -> Result<Layer, Problem> {
    let wrong = |key: &str, text: String| Problem::new(Origin::Set, key, text);
    let (written, value) = split_set(set).ok_or_else(|| {
        let begins = beginning(set);
        wrong("", format!("expected key=value, such as storage.path=data, found {begins} and no = after it"))
    })?;
    let path = parse_key(written).ok_or_else(|| {
        let begins = beginning(written);
        wrong("", format!("{begins} is no dotted key; quote what is not a word: topics.\"a.*\".ttl_ms"))
    })?;
    let key = path.iter().fold(String::new(), |path, name| below(&path, name));
    let wanted = find(schema, &path).map_err(|unknown| match unknown {
        Unknown::Inside(list) => wrong(&list, WHOLE_LIST.to_owned()),
        Unknown::Key => wrong(&key, lookup::unknown_key(schema, &key)),
    })?;
    Ok(Layer { origin: Origin::Set, dict: nest(&path, value_from_text(wanted, value)) })
}

const WHOLE_LIST: &str = "this is a list: give the whole of it, in TOML, such as [{ kind = \"sse\", … }]";

/// The part of an argument that reads like a key, quoted. The rest is left out: it may be a secret.
fn beginning(written: &str) -> String {
    let is_key = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '*' | '[' | ']');
    let end = written.find(|c| !is_key(c)).unwrap_or(written.len());
    let more = if end < written.len() { "…" } else { "" };
    quoted(&format!("{}{more}", &written[..end]))
}

/// Splits `key=value` at the first `=` outside quotes.
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

/// Parses the text of a variable or of `--set`. The key decides its type, so `2024` can be a path and `info` needs no quotes.
fn value_from_text(wanted: Wanted, text: &str) -> Value {
    match (wanted, parse_value(text)) {
        // Quotes are removed, as everywhere in TOML, but text that looks like a number stays text.
        (Wanted::Text, Some(value @ Value::String(..))) => value,
        (Wanted::Text, _) | (_, None) => text.into(),
        (Wanted::Toml, Some(value)) => value,
    }
}

fn parse_value(text: &str) -> Option<Value> {
    let mut dict = parse_document(&format!("v = {text}")).ok()?;
    // More than one key: the text has a line break in it, so it is not a value.
    dict.remove("v").filter(|_| dict.is_empty())
}

/// Parses a document. The message names line and column and quotes nothing: the line may hold a secret, and its key is unknown
/// until it parses.
fn parse_document(text: &str) -> Result<Dict, String> {
    toml::from_str(text).map_err(|error| {
        let reason = broker_core::plain_words(error.message().trim()).replace('\n', ", ");
        match error.span().and_then(|span| text.get(..span.start)) {
            Some(before) => {
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                format!("line {line}, column {column}: {reason}")
            }
            None => reason,
        }
    })
}

fn nest(path: &[String], value: Value) -> Dict {
    let mut value = value;
    for name in path.iter().skip(1).rev() {
        value = Dict::from([(name.clone(), value)]).into();
    }
    path.first().map(|name| Dict::from([(name.clone(), value)])).unwrap_or_default()
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
        let text = |text| value_from_text(Wanted::Text, text).into_string();
        assert_eq!(text("2024").as_deref(), Some("2024"));
        assert_eq!(text("true").as_deref(), Some("true"));
        assert_eq!(text("\"quoted\"").as_deref(), Some("quoted"));
        assert_eq!(text("").as_deref(), Some(""));
        assert_eq!(text("a\"b").as_deref(), Some("a\"b"));
        assert_eq!(text("a\nb = 1").as_deref(), Some("a\nb = 1"));
        let number = value_from_text(Wanted::Toml, "7");
        assert_eq!(number.to_i128(), Some(7));
        assert!(matches!(value_from_text(Wanted::Toml, "seven"), Value::String(..)));
        assert!(matches!(value_from_text(Wanted::Toml, "[\"a\"]"), Value::Array(..)));
    }
}
