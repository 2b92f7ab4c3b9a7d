//! `[[sources]]` with `kind = "sse"`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_core::error_chain;
use broker_core::settings::key::DAY_MS;
use broker_core::settings::source::{ID, MSG, ON_MISSING, PRIORITY, TOPIC};
use broker_core::settings::{
    Key, MadeSource, Plugin, Preset, Problem, Secret, SecretString, Shape, SourceConfig, Values, read,
};
use broker_core::source::SourceError;
use pipeline_source::mapping::{Mapping, Pointer};
use pipeline_source::settings::{EventTypes, MappingSettings, made};
use serde::Deserialize;

use crate::{
    OnClientError, ParserLimits, ProxyChoice, Selection, SseClient, SseConfig, SseConfigError, SseSource, TlsFiles,
};

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn SourceConfig> = Plugin { doc: "Any feed of server-sent events.", keys: KEYS, configure };

const URL: Key = Key::required("url", Shape::Text, "The feed, http or https.").secret(Secret::InUrl);
const HEADERS: Key = Key::with_default(
    "headers",
    Shape::TextMap,
    Preset::Table,
    "Request headers, such as { Authorization = \"Bearer …\" }.",
)
.secret(Secret::Whole);
const EVENTS: Key = Key::with_default(
    "events",
    Shape::Texts,
    Preset::Texts(&[]),
    "The types of the events to publish, as the feed's `event:` has them (\"message\" where it has none); []: all.",
);
const SKIP: Key = Key::with_default(
    "skip",
    Shape::TextMap,
    Preset::Table,
    "Events not to publish: JSON pointers into the event's data, each with the string that excludes the event, such as\n\
     { \"/meta/domain\" = \"canary\" }.",
);
const CA: Key = Key::optional(
    "ca",
    Shape::Path("file"),
    "Certificate authorities (PEM) to trust, instead of the operating system's.",
);
const CLIENT_CERT: Key = Key::optional(
    "client_cert",
    Shape::Path("file"),
    "The certificate chain (PEM) to show to a server that asks for one; needs client_key.",
);
const CLIENT_KEY: Key = Key::optional("client_key", Shape::Path("file"), "The private key (PEM) of client_cert.");
const PROXY: Key = Key::with_default(
    "proxy",
    Shape::Text,
    Preset::Text("env"),
    "The proxy: \"env\" (HTTPS_PROXY, NO_PROXY and so on), \"none\", or the URL of an HTTP proxy. Never used for this machine.",
)
.secret(Secret::InUrl);
const IDLE_TIMEOUT: Key = Key::with_default(
    "idle_timeout_ms",
    Shape::Int(0, DAY_MS),
    Preset::Int(120_000),
    "Milliseconds without a byte, comments included, after which the connection is made anew; 0: no limit.",
);
const MAX_LINE: Key = Key::with_default(
    "max_line_bytes",
    Shape::Int(64, 64 << 20),
    Preset::Int(1 << 20),
    "The longest line of the feed, in bytes; an event with a longer one is skipped.",
);
const MAX_EVENT: Key = Key::with_default(
    "max_event_bytes",
    Shape::Int(1, 64 << 20),
    Preset::Int(4 << 20),
    "The most data of one event, in bytes; a larger event is skipped.",
);
const ON_CLIENT_ERROR: Key = Key::with_default(
    "on_client_error",
    Shape::Word(&["retry", "stop"]),
    Preset::Text("retry"),
    "After a refusal (HTTP status 4xx) or an answer that is no event stream: \"retry\" asks again with growing pauses, \"stop\"\n\
     ends the source.",
);
const TYPED_TOPIC: Key = TOPIC.documented(
    "The topic to publish to, in which {event} stands for the event's type, or a JSON pointer (\"/a/b\") into its data.",
);

const KEYS: &[Key] = &[
    URL,
    HEADERS,
    EVENTS,
    SKIP,
    TYPED_TOPIC,
    ID,
    MSG,
    PRIORITY,
    ON_MISSING,
    CA,
    CLIENT_CERT,
    CLIENT_KEY,
    PROXY,
    IDLE_TIMEOUT,
    MAX_LINE,
    MAX_EVENT,
    ON_CLIENT_ERROR,
];

/// The values of [`KEYS`].
#[derive(Debug, Deserialize)]
struct SseSettings {
    url: SecretString,
    headers: BTreeMap<String, SecretString>,
    events: Vec<String>,
    skip: BTreeMap<String, String>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    proxy: SecretString,
    idle_timeout_ms: u64,
    max_line_bytes: usize,
    max_event_bytes: usize,
    on_client_error: OnClientError,
    #[serde(flatten)]
    mapping: MappingSettings,
}

/// A checked configuration, from which the source is made.
#[derive(Debug)]
struct SseSourceConfig {
    client: SseConfig,
    selection: Selection,
    mapping: Mapping,
}

fn configure(values: &Values) -> Result<Arc<dyn SourceConfig>, Vec<Problem>> {
    let settings: SseSettings = read(values)?;
    let mut problems = Vec::new();
    let mapping = settings.mapping.mapping(EventTypes::Named).map_err(|more| problems.extend(more)).ok();
    let mut skip = Vec::new();
    for (pointer, unwanted) in settings.skip {
        match Pointer::new(&pointer) {
            Ok(pointer) => skip.push((pointer, unwanted)),
            Err(error) => problems.push(Problem::new(SKIP.name, error.to_string())),
        }
    }
    let mut client = SseConfig::new(settings.url.reveal());
    client.headers = settings.headers.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
    client.idle_timeout = Some(Duration::from_millis(settings.idle_timeout_ms)).filter(|limit| !limit.is_zero());
    client.limits = ParserLimits { max_line_bytes: settings.max_line_bytes, max_event_bytes: settings.max_event_bytes };
    client.on_client_error = settings.on_client_error;
    client.proxy = match settings.proxy.reveal() {
        "env" => ProxyChoice::Environment,
        "none" => ProxyChoice::Direct,
        url => ProxyChoice::Url(url.to_owned()),
    };
    let identity = match (settings.client_cert, settings.client_key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            problems.push(Problem::new(CLIENT_CERT.name, "it needs client_key as well"));
            None
        }
        (None, Some(_)) => {
            problems.push(Problem::new(CLIENT_KEY.name, "it needs client_cert as well"));
            None
        }
    };
    client.tls = TlsFiles { ca: settings.ca, client: identity };
    if let Err(error) = SseClient::new(client.clone()) {
        let key = match &error {
            SseConfigError::Header { .. } => HEADERS.name,
            SseConfigError::Proxy { .. } => PROXY.name,
            SseConfigError::TlsFile { key, .. } => key,
            _ => URL.name,
        };
        problems.push(Problem::new(key, error_chain(&error)));
    }
    let selection = Selection { events: settings.events, skip };
    match mapping {
        Some(mapping) if problems.is_empty() => Ok(Arc::new(SseSourceConfig { client, selection, mapping })),
        _ => Err(problems),
    }
}

impl SourceConfig for SseSourceConfig {
    fn make(&self, name: &str) -> Result<MadeSource, SourceError> {
        let source = SseSource::new(name, self.client.clone(), self.mapping.clone()).map_err(|error| SourceError {
            source_name: name.to_owned(),
            reason: error_chain(&error),
            cause: None,
        })?;
        let source = source.only(self.selection.clone());
        let counters = source.counters();
        Ok(made(source, counters))
    }
}

#[cfg(test)]
mod tests {
    use broker_core::settings::defaults;
    use serde_json::json;

    use super::*;

    fn values(more: serde_json::Value) -> Values {
        let mut values = defaults(KEYS);
        values.extend([("url".to_owned(), json!("http://u:s3cret@h/")), ("topic".to_owned(), json!("t"))]);
        values.extend(more.as_object().cloned().unwrap_or_default());
        values
    }

    #[test]
    fn the_keys_and_the_configuration_agree() {
        let config = configure(&values(json!({ "headers": { "x": "s3cret" }, "priority": { "random": [0, 6] } })));
        let config = config.unwrap();
        assert!(config.make("a").is_ok());
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
    }

    #[test]
    fn every_problem_is_named_by_its_key() {
        for (bad, expected) in [
            (json!({ "url": "ftp://h", "topic": "a b", "skip": { "x": "y" } }), &["topic", "skip", "url"][..]),
            (json!({ "proxy": "socks5://u:s3cret@h" }), &["proxy"]),
            (json!({ "ca": "/does/not/exist.pem" }), &["ca"]),
            (json!({ "client_cert": "/a.pem" }), &["client_cert"]),
            (json!({ "client_cert": "/does/not/exist.pem", "client_key": "/a.pem" }), &["client_cert"]),
        ] {
            let problems = configure(&values(bad)).unwrap_err();
            let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
            assert_eq!(keys, expected, "{problems:?}");
            assert!(!format!("{problems:?}").contains("s3cret"), "{problems:?}");
        }
    }
}
