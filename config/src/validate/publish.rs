//! `[publish]`: the broker that sources publish to.

use std::ffi::OsString;
use std::path::PathBuf;

use transport_client::{Address, ClientConfig};

use super::{Validate, tokens};
use crate::settings::path::quoted;
use crate::settings::raw::RawPublish;

/// The `to` that means the broker in this process.
pub(super) const LOCAL: &str = "local";

/// A broker elsewhere.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// How to reach it, with its token.
    pub client: ClientConfig,
    /// Where the cursors of sources are.
    pub path: PathBuf,
}

impl RemoteSettings {
    /// The address, as it may be shown.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.client.address()
    }
}

pub(super) fn remote(
    validate: &mut Validate<'_>,
    raw: &RawPublish,
    environment: &[(OsString, OsString)],
) -> Option<RemoteSettings> {
    let RawPublish { to, token, token_file, token_env, ca, path } = raw;
    let written = [
        ("publish.token", token),
        ("publish.token_file", token_file),
        ("publish.token_env", token_env),
        ("publish.ca", ca),
    ];
    if to == LOCAL {
        // Otherwise somebody who forgot `to` would publish here, and wonder.
        for (key, _) in written.iter().filter(|(_, value)| value.is_some()) {
            validate.problem(
                key,
                "this is for a broker elsewhere, and publish.to is \"local\": expected publish.to = \"tcp://host:8000\"".to_owned(),
            );
        }
        return None;
    }
    // Not the text itself: a password may have got into it.
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
        let (key, found) = tokens::secret([token, token_file, token_env], environment);
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
    if path.is_empty() {
        validate.problem("publish.path", "the path is empty: expected a directory".to_owned());
    }
    Some(RemoteSettings { client, path: PathBuf::from(path) })
}
