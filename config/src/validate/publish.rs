//! `[publish]`: the broker that sources publish to.

use std::path::PathBuf;

use broker_core::settings::text::quoted;
use serde::Deserialize;
use transport_client::{Address, ClientConfig};

use super::{Validate, tokens};

/// The value of `to` that means the broker in this process.
const LOCAL: &str = "local";

/// The values of `[publish]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    to: String,
    token: Option<String>,
    token_file: Option<String>,
    token_env: Option<String>,
    ca: Option<String>,
    path: PathBuf,
}

/// The broker elsewhere that sources publish to.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// The client that reaches it, with its token.
    pub client: ClientConfig,
    /// The directory that holds the positions of the sources.
    pub path: PathBuf,
}

impl RemoteSettings {
    /// The address, without the token.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.client.address()
    }
}

/// Whether sources publish to a broker elsewhere.
pub(super) fn is_elsewhere(validate: &Validate<'_>) -> bool {
    validate.table("publish").is_some_and(|publish| publish.get("to").is_some_and(|to| to != LOCAL))
}

/// Returns `Some(None)` for the broker in this process, and `None` if there are problems.
pub(super) fn remote(validate: &mut Validate<'_>) -> Option<Option<RemoteSettings>> {
    let Publish { to, token, token_file, token_env, ca, path } = &validate.read("publish")?;
    let written = [
        ("publish.token", token),
        ("publish.token_file", token_file),
        ("publish.token_env", token_env),
        ("publish.ca", ca),
    ];
    if to == LOCAL {
        // An operator who forgot `to` would publish to this process without noticing.
        for (key, _) in written.iter().filter(|(_, value)| value.is_some()) {
            validate.problem(
                key,
                "this is for a broker elsewhere, and publish.to is \"local\": expected publish.to = \"tcp://host:8000\"".to_owned(),
            );
        }
        return Some(None);
    }
    // The text itself is not quoted: it may hold a password.
    let expected = "expected \"local\", or a broker as tcp://host:8000, tls://host:8000, ws://host:8001/ws or wss://…";
    if !to.contains("://") {
        validate.problem("publish.to", expected.to_owned());
        return None;
    }
    let mut client = match to.parse::<Address>() {
        Ok(address) => ClientConfig::new(address).name("sources"),
        Err(error) => {
            validate.problem("publish.to", format!("{error}: {expected}"));
            return None;
        }
    };
    if written[..3].iter().any(|(_, value)| value.is_some()) {
        let (key, found) = tokens::secret([token, token_file, token_env], validate.environment);
        let key = if key.is_empty() { "publish".to_owned() } else { format!("publish.{key}") };
        match found.and_then(tokens::checked) {
            Ok(token) => client = client.token(token),
            Err(text) => validate.problem(&key, text),
        }
    }
    if let Some(ca) = ca {
        match std::fs::read(ca) {
            Ok(pem) => client = client.authorities(pem),
            Err(error) => validate.problem("publish.ca", format!("{} cannot be read: {error}", quoted(ca))),
        }
    }
    if let Err(error) = client.validate() {
        validate.problem("publish.to", error.to_string());
    }
    Some(Some(RemoteSettings { client, path: path.clone() }))
}
