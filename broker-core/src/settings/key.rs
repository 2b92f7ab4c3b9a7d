//! The keys of a settings table.

use serde_json::Value;

/// The largest integer that every JSON and TOML parser keeps exact: the upper end of ranges that have no natural one.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;
/// A day in milliseconds: the upper end of ranges of time.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A key: the only declaration of its type, default, range and documentation.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The name, as an operator writes it.
    pub name: &'static str,
    /// The type and range of its value.
    pub shape: Shape,
    /// The value of a key that is not set.
    pub presence: Presence,
    /// The meaning, with its unit. Each line becomes a line of comment in `herald config init`.
    pub doc: &'static str,
    /// The part of the value that must not be shown.
    pub secret: Secret,
    /// Whether SIGHUP applies a new value; otherwise it takes a restart.
    pub reload: bool,
}

/// The type and range of a value.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// An integer in a range, both ends included.
    Int(i64, i64),
    /// Any string.
    Text,
    /// A path that is not empty, to a file or directory as the word says.
    Path(&'static str),
    /// `host:port` to listen on.
    Address,
    /// One of these strings.
    Word(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// A string or a list of strings, not empty.
    TextOrTexts,
    /// Two integers from 0 to this one, the smaller first.
    Range(i64),
    /// A table of strings with any keys.
    TextMap,
    /// An integer of 32 bits, a JSON pointer, or `{ random = [lo, hi] }`.
    Priority,
    /// A table with these keys.
    Table(&'static [Key]),
    /// A list of tables with these keys.
    List(&'static [Key]),
}

/// The value of a key that is not written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Presence {
    /// This default.
    Default(Preset),
    /// None: the key must be written.
    Required,
    /// None: without the key, the feature it configures is off.
    Optional,
}

/// A default, as a constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preset {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A string.
    Text(&'static str),
    /// A list of strings.
    Texts(&'static [&'static str]),
    /// A list of integers.
    Ints(&'static [i64]),
    /// An empty table.
    Table,
}

/// The part of a value that must not be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// Nothing.
    No,
    /// All of it.
    Whole,
    /// The credentials and the query of a URL.
    InUrl,
}

impl Key {
    const fn new(name: &'static str, shape: Shape, presence: Presence, doc: &'static str) -> Self {
        Self { name, shape, presence, doc, secret: Secret::No, reload: false }
    }

    /// A key with a default.
    #[must_use]
    pub const fn with_default(name: &'static str, shape: Shape, default: Preset, doc: &'static str) -> Self {
        Self::new(name, shape, Presence::Default(default), doc)
    }

    /// A key that must be written.
    #[must_use]
    pub const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self::new(name, shape, Presence::Required, doc)
    }

    /// A key that may be left out and has no default.
    #[must_use]
    pub const fn optional(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self::new(name, shape, Presence::Optional, doc)
    }

    /// The same key with this part of its value hidden.
    #[must_use]
    pub const fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }

    /// The same key, applied by SIGHUP.
    #[must_use]
    pub const fn reloaded(mut self) -> Self {
        self.reload = true;
        self
    }

    /// The same key with another default: for a plugin that shares a key but not its default.
    #[must_use]
    pub const fn defaulting_to(mut self, default: Preset) -> Self {
        self.presence = Presence::Default(default);
        self
    }

    /// The same key with other documentation: for a plugin in which it means more.
    #[must_use]
    pub const fn documented(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// The default as a value, if there is one.
    #[must_use]
    pub fn default_value(&self) -> Option<Value> {
        match self.presence {
            Presence::Default(preset) => Some(preset.value()),
            Presence::Required | Presence::Optional => None,
        }
    }

    /// The ends of an integer's range, both included; for plugins that check values set by code.
    ///
    /// # Panics
    /// If the key is no integer, a mistake in the plugin that any test of it finds.
    #[must_use]
    pub const fn range(&self) -> (u64, u64) {
        match self.shape {
            Shape::Int(least, most) if least >= 0 => (least.unsigned_abs(), most.unsigned_abs()),
            _ => panic!("the key is no integer from 0"),
        }
    }
}

impl Preset {
    /// The default as a value.
    #[must_use]
    pub fn value(self) -> Value {
        match self {
            Self::Bool(value) => value.into(),
            Self::Int(value) => value.into(),
            Self::Text(text) => text.into(),
            Self::Texts(texts) => texts.to_vec().into(),
            Self::Ints(numbers) => numbers.to_vec().into(),
            Self::Table => Value::Object(serde_json::Map::new()),
        }
    }
}
