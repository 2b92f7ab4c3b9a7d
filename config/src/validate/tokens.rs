//! `auth.tokens`: the place of each secret, and the rights of its bearer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use broker_core::auth::{MAX_TOKEN_BYTES, Rights};
use broker_core::name::MAX_NAME_BYTES;

use broker_core::settings::SecretString;
use broker_core::settings::text::quoted;
use serde::Deserialize;

use super::Validate;
use super::topics::check_pattern;
use crate::settings::path::{below, entry};

/// One of `auth.tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// The secret.
    pub token: SecretString,
    /// The rights of its bearer.
    pub rights: Rights,
}

/// The values of `[auth]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    tokens: Vec<Token>,
}

/// The values of one of `auth.tokens`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: Option<String>,
    token_file: Option<String>,
    token_env: Option<String>,
    name: String,
    publish: Vec<String>,
    subscribe: Vec<String>,
    admin: bool,
}

pub(super) fn tokens(validate: &mut Validate<'_>) -> Option<Vec<TokenSettings>> {
    let Auth { tokens: list } = validate.read("auth")?;
    let mut tokens = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (at, written) in list.into_iter().enumerate() {
        let path = entry("auth.tokens", at);
        if written.name.is_empty() || written.name.len() > MAX_NAME_BYTES || written.name.chars().any(char::is_control)
        {
            let text = "expected a name of 1 to 255 bytes without control characters".to_owned();
            validate.problem(&below(&path, "name"), text);
        }
        for (key, patterns) in [("publish", &written.publish), ("subscribe", &written.subscribe)] {
            for pattern in patterns {
                if let Err(text) = check_pattern(pattern) {
                    validate.problem(&below(&path, key), format!("{}: {text}", quoted(pattern)));
                }
            }
        }
        let (key, found) = secret([&written.token, &written.token_file, &written.token_env], validate.environment);
        let key = if key.is_empty() { path.clone() } else { below(&path, key) };
        let token = match found.and_then(checked) {
            Ok(token) => token,
            Err(text) => {
                validate.problem(&key, text);
                continue;
            }
        };
        if let Some(other) = seen.insert(token.clone(), at) {
            let other = entry("auth.tokens", other);
            validate.problem(&key, format!("this is the token of {other} as well: each needs its own"));
        }
        let Token { name, publish, subscribe, admin, .. } = written;
        tokens.push(TokenSettings {
            token: SecretString::new(token),
            rights: Rights { name, publish, subscribe, admin },
        });
    }
    Some(tokens)
}

/// The key that says where a token is, and the token or the error. No message quotes any part of the token.
pub(super) fn secret(
    places: [&Option<String>; 3],
    environment: &[(OsString, OsString)],
) -> (&'static str, Result<String, String>) {
    let [token, token_file, token_env] = places;
    match (token, token_file, token_env) {
        (Some(token), None, None) => ("token", Ok(token.clone())),
        (None, Some(path), None) => ("token_file", read(Path::new(path))),
        (None, None, Some(name)) => {
            let value = environment.iter().find(|(other, _)| other == name.as_str()).map(|(_, value)| value);
            let token = match value.map(|value| value.to_str()) {
                None => Err(format!("the environment variable {} is not set", quoted(name))),
                Some(None) => Err(format!("the environment variable {} is not UTF-8 text", quoted(name))),
                Some(Some(token)) => Ok(token.to_owned()),
            };
            ("token_env", token)
        }
        _ => ("", Err("expected one of token, token_file and token_env".to_owned())),
    }
}

/// Returns the token if a client can send it.
pub(super) fn checked(token: String) -> Result<String, String> {
    match token.len() {
        0 => Err("the token is empty".to_owned()),
        1..=MAX_TOKEN_BYTES if token.chars().any(char::is_control) => {
            Err("the token has a control character in it, such as a line break".to_owned())
        }
        1..=MAX_TOKEN_BYTES => Ok(token),
        _ => Err(format!("the token has more than {MAX_TOKEN_BYTES} bytes")),
    }
}

fn read(path: &Path) -> Result<String, String> {
    // No more is read than a token can have, whatever file this is.
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TOKEN_BYTES as u64 + 3).read_to_string(&mut text));
    match read {
        Ok(_) => {
            let token = text.strip_suffix('\n').unwrap_or(&text);
            Ok(token.strip_suffix('\r').unwrap_or(token).to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(format!("{} is not UTF-8 text", path.display()))
        }
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}
