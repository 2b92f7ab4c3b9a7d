//! What this build contains: the one table that maps each kind of plugin to what makes it.
//!
//! A new plugin is a line here, a feature in the manifest, and a constructor below.

#[cfg(feature = "pipeline")]
pub(crate) mod pipeline;
mod sources;
mod transports;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use broker_core::source::{Source, SourceError};
use broker_core::storage::check::Check;
use broker_core::storage::{Storage, StorageError};
use broker_core::transport::{Transport, TransportError};

use crate::settings::check::one_of;
pub(crate) use sources::source_problems;
pub(crate) use transports::transport_problems;

use crate::validate::{SourceSettings, StorageSettings, TransportSettings};

/// What a plugin plugs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seam {
    /// Where events are kept.
    Storage,
    /// Who owns the queues.
    Engine,
    /// What clients connect to.
    Transport,
    /// What feeds the broker.
    Source,
    /// Where the tweet pipeline stores.
    Sink,
}

impl fmt::Display for Seam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storage => "storage",
            Self::Engine => "engine",
            Self::Transport => "transport",
            Self::Source => "source",
            Self::Sink => "sink",
        })
    }
}

/// What makes a storage. Both are blocking.
#[derive(Clone, Copy)]
pub(crate) struct MakeStorage {
    /// Opens it.
    pub(crate) open: fn(&StorageSettings) -> Result<Arc<dyn Storage>, StorageError>,
    /// Takes its directory for checking.
    pub(crate) check: fn(&StorageSettings) -> Result<Box<dyn Check>, StorageError>,
}
/// A transport on its way to being bound.
pub(crate) type Binding = Pin<Box<dyn Future<Output = Result<Box<dyn Transport>, TransportError>> + Send>>;
/// Binds a transport.
pub(crate) type MakeTransport = fn(TransportSettings) -> Binding;
/// Makes a source, which begins nothing yet.
pub(crate) type MakeSource = fn(&SourceSettings) -> Result<BuiltSource, SourceError>;

/// What makes a plugin.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "a small build has not all of them")]
pub(crate) enum Make {
    Storage(MakeStorage),
    /// There is one, and it is always there.
    LocalEngine,
    Transport(MakeTransport),
    Source(MakeSource),
    /// Made by `registry::pipeline`, which a build without the pipeline does not have.
    Sink,
}

/// Whether a plugin is there.
#[derive(Clone, Copy)]
enum Availability {
    Built(Make),
    /// In this version, but its feature is off.
    #[allow(dead_code, reason = "a full build has all of them")]
    NotBuilt,
    /// In no build of this version.
    Later,
}

struct Plugin {
    seam: Seam,
    /// Folder, feature, `kind`, label: one name.
    kind: &'static str,
    availability: Availability,
}

/// In the order in which defaults are chosen.
static PLUGINS: [Plugin; 12] = [
    Plugin { seam: Seam::Storage, kind: "json-log", availability: JSON_LOG },
    Plugin { seam: Seam::Storage, kind: "sled", availability: SLED },
    Plugin { seam: Seam::Storage, kind: "sqlite", availability: SQLITE },
    Plugin { seam: Seam::Engine, kind: "local", availability: Availability::Built(Make::LocalEngine) },
    Plugin { seam: Seam::Engine, kind: "jetstream", availability: Availability::Later },
    Plugin { seam: Seam::Transport, kind: "tcp", availability: TCP },
    Plugin { seam: Seam::Transport, kind: "ws", availability: WS },
    Plugin { seam: Seam::Transport, kind: "http", availability: Availability::Later },
    Plugin { seam: Seam::Source, kind: "sse", availability: SSE },
    Plugin { seam: Seam::Source, kind: "change-stream", availability: CHANGE_STREAM },
    Plugin { seam: Seam::Sink, kind: "sqlite", availability: SQLITE_SINK },
    Plugin { seam: Seam::Sink, kind: "mongodb", availability: MONGODB_SINK },
];

#[cfg(feature = "json-log")]
const JSON_LOG: Availability = Availability::Built(Make::Storage(json_log::MAKE));
#[cfg(not(feature = "json-log"))]
const JSON_LOG: Availability = Availability::NotBuilt;

#[cfg(feature = "sled")]
const SLED: Availability = Availability::Built(Make::Storage(sled::MAKE));
#[cfg(not(feature = "sled"))]
const SLED: Availability = Availability::NotBuilt;

#[cfg(feature = "sqlite")]
const SQLITE: Availability = Availability::Built(Make::Storage(sqlite::MAKE));
#[cfg(not(feature = "sqlite"))]
const SQLITE: Availability = Availability::NotBuilt;

#[cfg(feature = "tcp")]
const TCP: Availability = Availability::Built(Make::Transport(transports::tcp::bind));
#[cfg(not(feature = "tcp"))]
const TCP: Availability = Availability::NotBuilt;

#[cfg(feature = "ws")]
const WS: Availability = Availability::Built(Make::Transport(transports::ws::bind));
#[cfg(not(feature = "ws"))]
const WS: Availability = Availability::NotBuilt;

#[cfg(feature = "sse")]
const SSE: Availability = Availability::Built(Make::Source(sources::sse::make));
#[cfg(not(feature = "sse"))]
const SSE: Availability = Availability::NotBuilt;

#[cfg(feature = "mongodb")]
const CHANGE_STREAM: Availability = Availability::Built(Make::Source(sources::change_stream::make));
#[cfg(not(feature = "mongodb"))]
const CHANGE_STREAM: Availability = Availability::NotBuilt;

// The embedded one comes with the pipeline; where that is missing, the table is refused as a whole.
const SQLITE_SINK: Availability = Availability::Built(Make::Sink);

#[cfg(feature = "mongodb")]
const MONGODB_SINK: Availability = Availability::Built(Make::Sink);
#[cfg(not(feature = "mongodb"))]
const MONGODB_SINK: Availability = Availability::NotBuilt;

/// The feature that a plugin is built with: its own name, but for what is made with MongoDB's driver.
fn feature(kind: &str) -> &str {
    if kind == "change-stream" { "mongodb" } else { kind }
}

/// Why a plugin is not to be had, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Absent {
    /// No version has it.
    #[error("there is no {seam} \"{kind}\": expected {}", one_of(kinds(*.seam)))]
    Unknown { seam: Seam, kind: String },
    /// Its feature is off.
    #[error("this build has no \"{kind}\" {seam}: rebuild with --features {}", feature(kind))]
    NotBuilt { seam: Seam, kind: &'static str },
    /// It comes later.
    #[error("this build has no \"{kind}\" {seam}: this version of Herald has none yet; {}", what_there_is(*.seam))]
    Later { seam: Seam, kind: &'static str },
}

/// What makes the plugin `kind`.
pub(crate) fn find(seam: Seam, kind: &str) -> Result<Make, Absent> {
    let plugin = PLUGINS
        .iter()
        .find(|plugin| plugin.seam == seam && plugin.kind == kind)
        .ok_or_else(|| Absent::Unknown { seam, kind: kind.to_owned() })?;
    match plugin.availability {
        Availability::Built(make) => Ok(make),
        Availability::NotBuilt => Err(Absent::NotBuilt { seam, kind: plugin.kind }),
        Availability::Later => Err(Absent::Later { seam, kind: plugin.kind }),
    }
}

/// All kinds of a seam that there are in any build, in their order.
pub(crate) fn kinds(seam: Seam) -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().filter(move |plugin| plugin.seam == seam).map(|plugin| plugin.kind)
}

fn built(seam: Seam) -> impl Iterator<Item = &'static str> {
    let built = move |plugin: &&Plugin| plugin.seam == seam && matches!(plugin.availability, Availability::Built(_));
    PLUGINS.iter().filter(built).map(|plugin| plugin.kind)
}

fn what_there_is(seam: Seam) -> String {
    let names: Vec<String> = built(seam).map(|kind| format!("\"{kind}\"")).collect();
    if names.is_empty() {
        "this build has none at all".to_owned()
    } else {
        format!("this build has {}", names.join(", "))
    }
}

/// The storage that an empty configuration means: the first that this build has. Where it has none, the first that there
/// is, so that the error names a feature that helps.
pub(crate) fn default_storage() -> String {
    built(Seam::Storage).next().unwrap_or("json-log").to_owned()
}

/// The transport that is on without being mentioned: tcp, or else the first that this build has.
pub(crate) fn default_transport() -> Option<&'static str> {
    built(Seam::Transport).next()
}

/// The kinds of storage, transport and source that this build has, for `--version`.
#[must_use]
pub fn contents() -> String {
    let list = |seam| {
        let kinds: Vec<&str> = built(seam).collect();
        if kinds.is_empty() { "none".to_owned() } else { kinds.join(" ") }
    };
    let (storage, transports, sources) = (list(Seam::Storage), list(Seam::Transport), list(Seam::Source));
    format!("storage: {storage}\ntransports: {transports}\nsources: {sources}")
}

/// What a source has done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceFigures {
    /// Events read from the feed.
    pub read: u64,
    /// Events that the broker has taken.
    pub published: u64,
    /// Events that were left out by the rules, or refused.
    pub skipped: u64,
}

/// A source that has not begun, and a way to see how it is doing once it has.
pub(crate) struct BuiltSource {
    pub(crate) source: Box<dyn Source>,
    pub(crate) figures: Arc<dyn Fn() -> SourceFigures + Send + Sync>,
}

/// The storages take the same settings, save those that only one of them has: those are named at the end of its line.
macro_rules! storage {
    ($feature:literal, $module:ident, $krate:ident, $config:ident, $storage:ident, $check:ident $(, $own:ident)*) => {
        #[cfg(feature = $feature)]
        mod $module {
            use $krate::{Durability, OnDamage, $check, $config, $storage};

            use super::{Arc, MakeStorage};
            use crate::settings::raw;
            use crate::validate::StorageSettings;

            pub(super) const MAKE: MakeStorage = MakeStorage {
                open: |settings| Ok(Arc::new($storage::open(config(settings))?)),
                check: |settings| Ok(Box::new($check::open(config(settings))?)),
            };

            fn config(settings: &StorageSettings) -> $config {
                let mut config = $config::new(&settings.path);
                config.durability = match settings.durability {
                    raw::Durability::Always => Durability::Always,
                    raw::Durability::Interval => Durability::Interval,
                    raw::Durability::Never => Durability::Never,
                };
                config.sync_interval_ms = u64::try_from(settings.sync_interval.as_millis()).unwrap_or(u64::MAX);
                config.on_damage = match settings.on_damage {
                    raw::OnDamage::Serve => OnDamage::Serve,
                    raw::OnDamage::Stop => OnDamage::Stop,
                };
                config.clean_on_start = settings.clean_on_start;
                $(config.$own = settings.$own;)*
                config
            }
        }
    };
}

storage!("json-log", json_log, backend_json_log, JsonLogConfig, JsonLogStorage, JsonLogCheck, segment_bytes);
storage!("sled", sled, backend_sled, SledConfig, SledStorage, SledCheck);
storage!("sqlite", sqlite, backend_sqlite, SqliteConfig, SqliteStorage, SqliteCheck);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_says_what_to_do() {
        let text = |seam, kind| find(seam, kind).err().map(|absent| absent.to_string()).unwrap_or_default();
        assert_eq!(
            text(Seam::Storage, "postgres"),
            "there is no storage \"postgres\": expected \"json-log\", \"sled\" or \"sqlite\""
        );
        assert!(
            text(Seam::Transport, "http").starts_with(
                "this build has no \"http\" transport: this version of Herald has none yet; this build has"
            )
        );
        let not_built = Absent::NotBuilt { seam: Seam::Storage, kind: "json-log" };
        assert_eq!(not_built.to_string(), "this build has no \"json-log\" storage: rebuild with --features json-log");
    }

    #[test]
    fn every_feature_of_a_plugin_is_in_the_manifest() {
        let manifest = include_str!("../Cargo.toml");
        for plugin in PLUGINS.iter().filter(|plugin| !matches!(plugin.availability, Availability::Later)) {
            let feature = format!("\n{} = [", feature(plugin.kind));
            assert!(plugin.seam == Seam::Engine || manifest.contains(&feature), "{}", plugin.kind);
        }
    }

    #[test]
    fn an_empty_configuration_means_the_first_of_each() {
        assert_eq!(default_storage(), "json-log");
        let ws = cfg!(feature = "ws").then_some("ws");
        assert_eq!(default_transport(), cfg!(feature = "tcp").then_some("tcp").or(ws));
    }
}
