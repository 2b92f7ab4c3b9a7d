//! The tree of all keys: those of the broker, and those of each plugin of a registry.
//!
//! The check, the defaults, the coercion of environment values, `herald config show`, `herald config init` and the reference page
//! all walk this tree, so they cannot disagree.

use broker_core::settings::{self, Key, Secret};
use serde_json::Value;

use super::keys;
use crate::registry::{Kind, Registry, Seam};

/// A key, or a table with the keys in it.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) presence: Presence,
    pub(crate) doc: &'static str,
    pub(crate) secret: Secret,
    /// Whether SIGHUP applies changes of it, and of everything below it.
    pub(crate) reload: bool,
    /// Whether only a later version has it: the key is known, and refused.
    pub(crate) later: bool,
}

/// The content of a field.
pub(crate) enum Shape {
    /// A value, described by its key.
    Value(Key),
    /// The name of a plugin.
    Plugin(Seam),
    /// A table.
    Table(Table),
    /// A table whose keys are topic patterns, each with such a table.
    Patterns(Table),
    /// A list of such tables.
    List(Table),
}

/// The rule for a field that is not written.
pub(crate) enum Presence {
    /// This default.
    Default(Value),
    /// It must be written.
    Required,
    /// It may be left out. For a table, that turns its subject off.
    Optional,
    /// A table that always applies, with its own defaults.
    Always,
}

/// The keys of a table.
#[derive(Default)]
pub(crate) struct Table {
    /// The keys of every kind.
    pub(crate) fields: Vec<Field>,
    /// The additional keys of each kind, where `kind` decides.
    pub(crate) kinds: Vec<KindKeys>,
    /// Whether this build does not know its keys, and so does not check them.
    pub(crate) open: bool,
}

/// The keys that a table has only with this `kind`.
pub(crate) struct KindKeys {
    pub(crate) kind: Kind,
    pub(crate) fields: Vec<Field>,
}

impl Field {
    fn new(name: &'static str, shape: Shape, presence: Presence, doc: &'static str) -> Self {
        Self { name, shape, presence, doc, secret: Secret::No, reload: false, later: false }
    }

    fn table(name: &'static str, table: Table, presence: Presence, doc: &'static str) -> Self {
        Self::new(name, Shape::Table(table), presence, doc)
    }

    fn reloaded(mut self) -> Self {
        self.reload = true;
        self
    }

    /// The default of a value, if it has one.
    pub(crate) fn default(&self) -> Option<&Value> {
        match &self.presence {
            Presence::Default(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it has a header of its own instead of a line: a table, or a list of tables without a default.
    pub(crate) fn has_header(&self) -> bool {
        match self.shape {
            Shape::Table(_) | Shape::Patterns(_) => true,
            Shape::List(_) => matches!(self.presence, Presence::Optional),
            Shape::Value(_) | Shape::Plugin(_) => false,
        }
    }
}

impl From<&Key> for Field {
    fn from(key: &Key) -> Self {
        let shape = match key.shape {
            settings::Shape::Table(keys) => Shape::Table(Table::of(keys)),
            settings::Shape::List(keys) => Shape::List(Table::of(keys)),
            _ => Shape::Value(*key),
        };
        let presence = match (key.presence, key.default_value()) {
            (_, Some(value)) => Presence::Default(value),
            (settings::Presence::Required, None) => Presence::Required,
            (_, None) => Presence::Optional,
        };
        Self { name: key.name, shape, presence, doc: key.doc, secret: key.secret, reload: key.reload, later: false }
    }
}

fn fields(keys: &[Key]) -> impl Iterator<Item = Field> {
    keys.iter().map(Field::from)
}

impl Table {
    fn of(keys: &[Key]) -> Self {
        Self { fields: fields(keys).collect(), ..Self::default() }
    }

    fn open() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// The field called `name`, of any kind.
    pub(crate) fn find(&self, name: &str) -> Option<&Field> {
        self.all().find(|field| field.name == name)
    }

    /// Every field of every kind.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().chain(self.kinds.iter().flat_map(|kind| &kind.fields))
    }

    /// The fields of a table whose `kind` is this one.
    pub(crate) fn of_kind<'a>(&'a self, kind: Option<&str>) -> impl Iterator<Item = &'a Field> + Clone {
        let own = kind.and_then(|kind| self.kinds.iter().find(|keys| keys.kind.kind == kind));
        self.fields.iter().chain(own.into_iter().flat_map(|keys| &keys.fields))
    }

    /// The kinds that have the key `name`.
    pub(crate) fn kinds_with(&self, name: &str) -> impl Iterator<Item = &'static str> {
        let has = move |keys: &&KindKeys| keys.fields.iter().any(|field| field.name == name);
        self.kinds.iter().filter(has).map(|keys| keys.kind.kind)
    }

    /// Whether this build knows the keys of a table of this kind.
    pub(crate) fn knows(&self, kind: Option<&str>) -> bool {
        let built = |kind| self.kinds.iter().any(|keys| keys.kind.kind == kind && keys.kind.is_built());
        !self.open && (self.kinds.is_empty() || kind.is_some_and(built))
    }
}

fn kinds(registry: &Registry, seam: Seam) -> Vec<KindKeys> {
    let kinds = registry.kinds(seam).into_iter();
    kinds.map(|kind| KindKeys { kind, fields: fields(kind.keys).collect() }).collect()
}

/// The whole of `herald.toml`, for the plugins of `registry`.
pub(crate) fn schema(registry: &Registry) -> Table {
    use Presence::{Always, Default, Optional, Required};
    let kind = |seam, presence, doc| Field::new("kind", Shape::Plugin(seam), presence, doc);

    let default_storage = Default(registry.default_storage().into());
    let mut storage = vec![kind(
        Seam::Storage,
        default_storage,
        "json-log | sled | sqlite; the default is the first that this build has.",
    )];
    storage.extend(fields(settings::storage::SHARED));
    storage.extend(fields(keys::STORAGE));
    let storage = Table { fields: storage, kinds: kinds(registry, Seam::Storage), open: false };

    let mut jetstream = Field::table(
        "jetstream",
        Table::open(),
        Optional,
        "The engine over NATS JetStream. This version does not have it yet.",
    );
    jetstream.later = true;
    let engine = vec![kind(Seam::Engine, Default("local".into()), "local | jetstream"), jetstream];

    let transport = |kind: Kind| {
        let mut table = Table { open: !kind.is_built(), ..Table::of(&[keys::ENABLED]) };
        table.fields.extend(fields(kind.keys));
        let on = registry.default_transport() == Some(kind.kind);
        Field::table(kind.kind, table, if on { Always } else { Optional }, kind.doc)
    };
    let transports: Vec<Field> = registry.kinds(Seam::Transport).into_iter().map(transport).collect();

    let mut source = vec![kind(Seam::Source, Required, "The kind of the source.")];
    source.extend(fields(&[keys::SOURCE_NAME]));
    let sources = Table { fields: source, kinds: kinds(registry, Seam::Source), open: false };

    let of = |fields| Table { fields, ..Table::default() };
    Table {
        fields: vec![
            Field::table("broker", Table::of(keys::BROKER), Always, "The broker itself."),
            Field::table("storage", storage, Always, "Where events are stored."),
            Field::table("engine", of(engine), Always, "Which engine owns the queues."),
            Field::table("transports", of(transports), Always, keys::TRANSPORTS_DOC),
            Field::table("auth", Table::of(keys::AUTH), Always, "Access rights."),
            Field::table("commands", Table::of(keys::COMMANDS), Always, keys::COMMANDS_DOC),
            Field::new("topics", Shape::Patterns(Table::of(keys::TOPIC)), Always, keys::TOPICS_DOC).reloaded(),
            Field::table("publish", Table::of(keys::PUBLISH), Always, "Where sources and the pipeline publish to."),
            Field::new("sources", Shape::List(sources), Optional, "The feeds that the broker reads."),
            pipeline(registry),
        ],
        ..Table::default()
    }
}

#[cfg(feature = "pipeline")]
fn pipeline(registry: &Registry) -> Field {
    let default_sink = Presence::Default("sqlite".into());
    let kind = Field::new("kind", Shape::Plugin(Seam::Sink), default_sink, "sqlite (embedded) | mongodb");
    let sink = Table { fields: vec![kind], kinds: kinds(registry, Seam::Sink), open: false };
    let mut table = Table::of(pipeline_tweets::KEYS);
    table.fields.push(Field::table("sink", sink, Presence::Always, "Where tweets, users and scores are stored."));
    Field::table("pipeline", table, Presence::Optional, keys::PIPELINE_DOC)
}

/// Accepted here in any form: validation reports that this build has no pipeline.
#[cfg(not(feature = "pipeline"))]
fn pipeline(_: &Registry) -> Field {
    Field::table("pipeline", Table::open(), Presence::Optional, keys::PIPELINE_DOC)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `see` with each set of fields that one table can have.
    fn every_table(table: &Table, see: &mut impl FnMut(Vec<&Field>)) {
        see(table.fields.iter().collect());
        for kind in &table.kinds {
            see(table.of_kind(Some(kind.kind.kind)).collect());
        }
        for field in table.all() {
            if let Shape::Table(inner) | Shape::Patterns(inner) | Shape::List(inner) = &field.shape {
                every_table(inner, see);
            }
        }
    }

    #[test]
    fn names_are_unique_and_every_key_is_documented_and_has_a_default_that_fits() {
        every_table(&schema(&Registry::built_in()), &mut |fields| {
            let mut seen = std::collections::BTreeSet::new();
            for field in fields {
                assert!(seen.insert(field.name), "{} twice", field.name);
                assert!(!field.doc.is_empty(), "{}", field.name);
                if let (Shape::Value(key), Some(default)) = (&field.shape, field.default()) {
                    assert_eq!(key.check(default), Ok(()), "{}", field.name);
                }
            }
        });
    }
}
