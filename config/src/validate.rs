//! From checked values to runtime settings: each value has to make sense, and all have to fit together.
//!
//! | to find | look in |
//! | --- | --- |
//! | `[broker]`, `[commands]` | here |
//! | `[storage]` | `storage` |
//! | `[transports.…]` | `transports` |
//! | `[auth]` | `tokens` |
//! | `[topics.…]` | `topics` |
//! | `[[sources]]` | `sources` |
//! | `[publish]` | `publish` |
//! | `[pipeline]` | `pipeline` |

#[cfg(feature = "pipeline")]
mod pipeline;
mod publish;
mod sources;
mod storage;
mod tokens;
mod topics;
mod transports;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::time::Duration;

use broker_core::policy::Policies;
use broker_core::protocol::command::CommandWords;
use broker_core::settings::{self, Values, read, values};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

#[cfg(feature = "pipeline")]
pub use pipeline::PipelineSettings;
pub use publish::RemoteSettings;
pub use sources::SourceSettings;
pub use storage::StorageSettings;
pub use tokens::TokenSettings;
pub use transports::TransportSettings;

use crate::registry::Registry;
use crate::settings::check::Checked;
use crate::settings::path::below;
use crate::settings::problem::{Origin, Problem};

/// The settings of a valid configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[broker]`.
    pub broker: BrokerSettings,
    /// `[storage]`.
    pub storage: StorageSettings,
    /// `[topics]`.
    pub policies: Policies,
    /// `[commands]`.
    pub commands: CommandWords,
    /// `[auth]`.
    pub tokens: Vec<TokenSettings>,
    /// The transports that are enabled.
    pub transports: Vec<TransportSettings>,
    /// `[[sources]]`.
    pub sources: Vec<SourceSettings>,
    /// `[pipeline]`.
    #[cfg(feature = "pipeline")]
    pub pipeline: Option<PipelineSettings>,
    /// `[publish]`: the broker elsewhere; `None` for the one in this process.
    pub remote: Option<RemoteSettings>,
}

/// `[broker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSettings {
    /// The number of tasks that own topics.
    #[serde(deserialize_with = "shards")]
    pub shards: NonZeroUsize,
    /// The longest line, in bytes, without its line ending.
    pub max_line_bytes: usize,
    /// The longest delivery, in bytes, without its line ending.
    pub max_output_line_bytes: usize,
    /// The most topics that may exist.
    pub max_topics: usize,
    /// The most subscriptions that may exist.
    pub max_subscriptions: usize,
    /// The time limit for an orderly stop.
    #[serde(rename = "shutdown_timeout_ms", deserialize_with = "values::milliseconds")]
    pub shutdown_timeout: Duration,
    /// A valid tracing filter.
    pub log: String,
    /// The format of log lines.
    pub log_format: LogFormat,
}

impl BrokerSettings {
    /// Limits that are valid and do not fit together, in words that name both keys.
    pub(crate) fn unfit_limits(&self) -> Option<String> {
        let Self { max_line_bytes, max_output_line_bytes, .. } = self;
        (max_line_bytes > max_output_line_bytes).then(|| {
            format!(
                "broker.max_line_bytes = {max_line_bytes} lets clients send events that broker.max_output_line_bytes = \
                 {max_output_line_bytes} refuses: raise the latter for longer events"
            )
        })
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Reads `shards`; 0 means the number of cores.
fn shards<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<NonZeroUsize, D::Error> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Ok(NonZeroUsize::new(usize::deserialize(deserializer)?).unwrap_or_else(cores))
}

/// The values of `[commands]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Commands {
    publish: String,
    subscribe: String,
    unsubscribe: String,
    acknowledge: String,
}

/// Checks the meaning of the values and adds every mistake to `problems`; `None` only if there is one. Pure, but for the number
/// of cores, and the files that hold tokens and authorities.
pub(crate) fn validate(
    registry: &Registry,
    checked: &Checked,
    environment: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let mut validate = Validate { registry, values: &checked.values, origins: &checked.origins, environment, problems };
    // Every section runs, so that each reports its own problems.
    let broker = validate.broker();
    let storage = storage::storage(&mut validate);
    let commands = validate.commands();
    let remote = publish::remote(&mut validate);
    let transports = transports::transports(&mut validate);
    let tokens = tokens::tokens(&mut validate);
    let policies = topics::topics(&mut validate);
    let sources = sources::sources(&mut validate, &checked.sources);
    #[cfg(feature = "pipeline")]
    let pipeline = pipeline::pipeline(&mut validate);
    #[cfg(not(feature = "pipeline"))]
    validate.no_pipeline();
    Some(Settings {
        broker: broker?,
        storage: storage?,
        policies: policies?,
        commands: commands?,
        tokens: tokens?,
        transports,
        sources,
        #[cfg(feature = "pipeline")]
        pipeline,
        remote: remote?,
    })
}

struct Validate<'a> {
    registry: &'a Registry,
    values: &'a Values,
    origins: &'a BTreeMap<String, Origin>,
    environment: &'a [(OsString, OsString)],
    problems: &'a mut Vec<Problem>,
}

impl Validate<'_> {
    fn problem(&mut self, key: &str, text: impl Into<String>) {
        // An entry of a list has the origin of the list.
        let list = || key.strip_suffix(']').and_then(|entry| entry.rsplit_once('[')).map(|(list, _)| list);
        // A table has the origin of any value that was written in it.
        let inside = || {
            let is_below = |other: &str| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
            self.origins.iter().find_map(|(other, origin)| is_below(other).then_some(origin))
        };
        let origin = self.origins.get(key).or_else(|| self.origins.get(list()?)).or_else(inside);
        let origin = origin.cloned().unwrap_or(Origin::Default);
        self.problems.push(Problem::new(origin, key, text));
    }

    /// The problems of a plugin with its table at `path`.
    fn plugin_problems(&mut self, path: &str, problems: Vec<settings::Problem>) {
        for settings::Problem { key, text } in problems {
            let key = if key.is_empty() { path.to_owned() } else { format!("{path}.{key}") };
            self.problem(&key, text);
        }
    }

    /// Whether the key was written in any layer.
    fn is_written(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// The table at the top level called `name`.
    fn table(&self, name: &str) -> Option<&Values> {
        self.values.get(name).and_then(Value::as_object)
    }

    /// Reads a table of the top level that belongs to no plugin.
    fn read<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let values = self.table(name).cloned().unwrap_or_default();
        // The check has ensured that it parses; a failure is a bug, and is reported like any other problem.
        read(&values).map_err(|problems| self.plugin_problems(name, problems)).ok()
    }

    fn broker(&mut self) -> Option<BrokerSettings> {
        let broker: BrokerSettings = self.read("broker")?;
        if let Err(error) = EnvFilter::try_new(&broker.log) {
            self.problem(
                "broker.log",
                format!(
                    "not a tracing filter ({error}): expected a level such as \"info\", or \"warn,broker_core=debug\""
                ),
            );
        }
        Some(broker)
    }

    fn commands(&mut self) -> Option<CommandWords> {
        let Commands { publish, subscribe, unsubscribe, acknowledge } = self.read("commands")?;
        let words = CommandWords { publish, subscribe, unsubscribe, acknowledge };
        for (name, text) in words.validate().err().unwrap_or_default() {
            self.problem(&below("commands", name), format!("{text}: choose another word"));
        }
        Some(words)
    }

    #[cfg(not(feature = "pipeline"))]
    fn no_pipeline(&mut self) {
        if self.values.contains_key("pipeline") {
            let text = "this build has no tweet pipeline: rebuild with --features pipeline, or remove the table";
            self.problem("pipeline", text);
        }
    }
}
