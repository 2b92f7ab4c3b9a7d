//! The plugins that this build contains: one line for each, with its kind, its feature, and what its crate exports.
//!
//! | to find | look in |
//! | --- | --- |
//! | the list of plugins | [`Registry::built_in`] |
//! | an entry, and why a plugin may be unavailable | `entry` |
//!
//! To add a plugin, write its crate, a feature in the manifest, and a line in [`Registry::built_in`]. The checks, the messages,
//! `herald config` and the reference page follow from the keys that the crate exports.

mod entry;

use std::fmt;
use std::sync::LazyLock;

use broker_core::settings::{SourceConfig, StorageConfig, TransportConfig};

pub use entry::{Absent, Entry, Kind, State};

/// The configuration of a sink of the tweet pipeline; a build without the pipeline has none.
#[cfg(feature = "pipeline")]
pub type SinkConfig = dyn pipeline_tweets::TweetSinkConfig;
/// The configuration of a sink of the tweet pipeline; a build without the pipeline has none.
#[cfg(not(feature = "pipeline"))]
pub type SinkConfig = dyn fmt::Debug + Send + Sync;

/// The seam that a plugin fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seam {
    /// Stores events.
    Storage,
    /// Owns the queues.
    Engine,
    /// Serves clients.
    Transport,
    /// Feeds the broker.
    Source,
    /// Stores for the tweet pipeline.
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

/// The plugins that a configuration can name, in the order in which defaults are chosen.
pub struct Registry {
    /// Storages.
    pub storages: Vec<Entry<dyn StorageConfig>>,
    /// Engines. The local one is part of `broker-core` and has no keys.
    pub engines: Vec<Entry<dyn fmt::Debug>>,
    /// Transports.
    pub transports: Vec<Entry<dyn TransportConfig>>,
    /// Sources.
    pub sources: Vec<Entry<dyn SourceConfig>>,
    /// Sinks of the tweet pipeline.
    pub sinks: Vec<Entry<SinkConfig>>,
}

/// The entries of the registry. A plugin whose feature is off leaves its kind and the name of that feature.
macro_rules! plugins {
    ($({ kind: $kind:literal, feature: $feature:literal, plugin: $plugin:path }),* $(,)?) => {
        Vec::from([$(
            #[cfg(feature = $feature)]
            Entry::built($kind, $feature, $plugin),
            #[cfg(not(feature = $feature))]
            Entry::not_built($kind, $feature),
        )*])
    };
}

impl Registry {
    /// The plugins of this version of Herald.
    #[must_use]
    pub fn built_in() -> Self {
        let mut transports = plugins![
            { kind: "tcp", feature: "tcp", plugin: transport_tcp::PLUGIN },
            { kind: "ws", feature: "ws", plugin: transport_ws::PLUGIN },
        ];
        transports.push(Entry::later("http"));
        Self {
            storages: plugins![
                { kind: "json-log", feature: "json-log", plugin: backend_json_log::PLUGIN },
                { kind: "sled", feature: "sled", plugin: backend_sled::PLUGIN },
                { kind: "sqlite", feature: "sqlite", plugin: backend_sqlite::PLUGIN },
            ],
            engines: vec![Entry::always("local"), Entry::later("jetstream")],
            transports,
            sources: plugins![
                { kind: "sse", feature: "sse", plugin: pipeline_sse::PLUGIN },
                { kind: "change-stream", feature: "mongodb", plugin: pipeline_change_stream::PLUGIN },
            ],
            sinks: Self::sinks(),
        }
    }

    #[cfg(feature = "pipeline")]
    fn sinks() -> Vec<Entry<SinkConfig>> {
        plugins![
            { kind: "sqlite", feature: "pipeline", plugin: pipeline_tweets::sink::sqlite::PLUGIN },
            { kind: "mongodb", feature: "mongodb", plugin: pipeline_tweets::sink::mongodb::PLUGIN },
        ]
    }

    #[cfg(not(feature = "pipeline"))]
    fn sinks() -> Vec<Entry<SinkConfig>> {
        vec![Entry::not_built("sqlite", "pipeline"), Entry::not_built("mongodb", "mongodb")]
    }

    /// The registry that the binary uses.
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<Registry> = LazyLock::new(Registry::built_in);
        &GLOBAL
    }

    /// Every kind that fills `seam`, in any build.
    #[must_use]
    pub fn kinds(&self, seam: Seam) -> Vec<Kind> {
        fn all<C: ?Sized>(entries: &[Entry<C>]) -> Vec<Kind> {
            entries.iter().map(Entry::kind).collect()
        }
        match seam {
            Seam::Storage => all(&self.storages),
            Seam::Engine => all(&self.engines),
            Seam::Transport => all(&self.transports),
            Seam::Source => all(&self.sources),
            Seam::Sink => all(&self.sinks),
        }
    }

    /// Succeeds if this build has the plugin `kind`.
    ///
    /// # Errors
    /// [`Absent`], with the reason and how to get the plugin.
    pub fn find(&self, seam: Seam, kind: &str) -> Result<(), Absent> {
        entry::find(seam, kind, &self.kinds(seam))
    }

    /// The kinds that this build has.
    fn built(&self, seam: Seam) -> Vec<&'static str> {
        entry::built(&self.kinds(seam))
    }

    /// The storage of an empty configuration: the first of this build. A build without one names the first that exists, so that
    /// the error names a feature that helps.
    pub(crate) fn default_storage(&self) -> &'static str {
        self.built(Seam::Storage).first().copied().unwrap_or("json-log")
    }

    /// The transport that is on without configuration: the first of this build.
    pub(crate) fn default_transport(&self) -> Option<&'static str> {
        self.built(Seam::Transport).first().copied()
    }

    /// The storages, transports and sources of this build, for `--version`.
    #[must_use]
    pub fn contents(&self) -> String {
        let list = |seam| match self.built(seam) {
            kinds if kinds.is_empty() => "none".to_owned(),
            kinds => kinds.join(" "),
        };
        let (storage, transports, sources) = (list(Seam::Storage), list(Seam::Transport), list(Seam::Source));
        format!("storage: {storage}\ntransports: {transports}\nsources: {sources}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_plugin_says_how_to_get_it() {
        let registry = Registry::built_in();
        let text = |seam, kind| registry.find(seam, kind).err().map(|absent| absent.to_string()).unwrap_or_default();
        assert_eq!(
            text(Seam::Storage, "postgres"),
            "there is no storage \"postgres\": expected \"json-log\", \"sled\" or \"sqlite\""
        );
        let later = text(Seam::Engine, "jetstream");
        assert!(
            later.starts_with("this build has no \"jetstream\" engine: this version of Herald has none yet;"),
            "{later}"
        );
        let kinds = [Entry::<dyn StorageConfig>::not_built("json-log", "json-log").kind()];
        assert_eq!(
            entry::find(Seam::Storage, "json-log", &kinds).unwrap_err().to_string(),
            "this build has no \"json-log\" storage: rebuild with --features json-log"
        );
    }

    #[test]
    fn every_feature_of_a_plugin_is_in_the_manifest() {
        let manifest = include_str!("../Cargo.toml");
        let registry = Registry::built_in();
        for seam in [Seam::Storage, Seam::Transport, Seam::Source, Seam::Sink] {
            for kind in registry.kinds(seam).into_iter().filter(|kind| !kind.is_later()) {
                assert!(manifest.contains(&format!("\n{} = [", kind.feature)), "{}", kind.kind);
            }
        }
    }

    #[test]
    fn an_empty_configuration_means_the_first_of_each() {
        let registry = Registry::built_in();
        let first = [
            ("json-log", cfg!(feature = "json-log")),
            ("sled", cfg!(feature = "sled")),
            ("sqlite", cfg!(feature = "sqlite")),
        ];
        let first = first.into_iter().find(|(_, built)| *built).map_or("json-log", |(kind, _)| kind);
        assert_eq!(registry.default_storage(), first);
        let ws = cfg!(feature = "ws").then_some("ws");
        assert_eq!(registry.default_transport(), cfg!(feature = "tcp").then_some("tcp").or(ws));
    }
}
