//! Tokens: where each of them is, and what it is good for.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use broker_core::auth::{MAX_TOKEN_BYTES, Rights};
use broker_core::name::MAX_NAME_BYTES;

use super::{Validate, check_pattern};
use crate::secret::SecretString;
use crate::settings::path::{below, entry, quoted};
use crate::settings::raw::RawToken;

/// One of `auth.tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// The secret.
    pub token: SecretString,
    /// What its bearer may do.
    pub rights: Rights,
}

pub(super) fn tokens(
    validate: &mut Validate<'_>,
    raw: Vec<RawToken>,
    environment: &[(OsString, OsString)],
) -> Vec<TokenSettings> {
    let mut tokens = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (at, raw) in raw.into_iter().enumerate() {
        let path = entry("auth.tokens", at);
        if raw.name.is_empty() || raw.name.len() > MAX_NAME_BYTES || raw.name.chars().any(char::is_control) {
            let text = "expected a name of 1 to 255 bytes without control characters".to_owned();
            validate.problem(&below(&path, "name"), text);
        }
        for (key, patterns) in [("publish", &raw.publish), ("subscribe", &raw.subscribe)] {
            for pattern in patterns {
                if let Err(text) = check_pattern(pattern) {
                    validate.problem(&below(&path, key), format!("{}: {text}", quoted(pattern)));
                }
            }
        }
        let (key, found) = secret([&raw.token, &raw.token_file, &raw.token_env], environment);
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
        let RawToken { name, publish, subscribe, admin, .. } = raw;
        tokens.push(TokenSettings {
            token: SecretString::new(token),
            rights: Rights { name, publish, subscribe, admin },
        });
    }
    tokens
}

/// The token that is in one of `token`, `token_file` and `token_env`, or what is wrong with it, and the key that says where it
/// is. No text has anything of the token in it.
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

/// The token, if it can be one.
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
    // Whatever the file is, no more of it than could be a token.
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
