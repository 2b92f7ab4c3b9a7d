//! The `hello` command: a connection's options.

use serde::{Deserialize, Serialize};

/// A connection's options, set by `hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A name for logs.
    pub client: Option<String>,
    /// The most events in flight per subscription, at least 1.
    pub prefetch: u16,
    /// Whether replies of success are left out.
    pub quiet: bool,
    /// Whether publishes are confirmed.
    pub confirm: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { client: None, prefetch: 1, quiet: false, confirm: false }
    }
}

/// The answer to `hello`, in the order of its keys.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    /// Always `herald`.
    pub server: &'static str,
    /// The broker's version.
    pub version: &'a str,
    /// The version of the protocol.
    pub protocol: u32,
    /// The session's id.
    pub session: &'a str,
    /// The longest line that is accepted, in bytes.
    pub max_line_bytes: usize,
    /// The longest line that a delivery can be, in bytes.
    pub max_output_line_bytes: usize,
    /// Topics that were detached because the new token may not subscribe to them.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub detached: &'a [&'a str],
    /// The number of further detached topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detached_more: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    client: Option<serde_json::Value>,
    token: Option<serde_json::Value>,
    prefetch: Option<serde_json::Value>,
    replies: Option<serde_json::Value>,
    confirm: Option<serde_json::Value>,
}

/// Rewords the parser's error, which would quote an unknown field in full length.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string().replace(" at line 1 column ", " at column ");
    if let Some((name, column)) = text.strip_prefix("duplicate field `").and_then(|rest| rest.rsplit_once("` at ")) {
        return format!("\"{name}\" given twice at {column}");
    }
    let name = text.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected one of "));
    match name {
        Some((name, _)) => {
            let name = crate::protocol::reply::quote(name);
            format!("unknown field {name}; the fields are client, token, prefetch, replies, confirm")
        }
        None => text,
    }
}

/// The longest name of a client, in bytes.
const MAX_CLIENT: usize = 255;

impl Options {
    /// Returns these options as changed by `json`, and the token in it. Fields that are missing or null keep their value.
    ///
    /// # Errors
    /// A text that names the field and the values it accepts.
    pub fn changed_by(&self, json: &str) -> Result<(Self, Option<String>), String> {
        use serde_json::Value;
        if !json.starts_with('{') {
            return Err(r#"expected an object such as {"prefetch":10}"#.to_owned());
        }
        let fields: Fields = serde_json::from_str(json).map_err(|error| describe(&error))?;
        let given = |field: Option<Value>| field.filter(|value| !value.is_null());
        let mut options = self.clone();
        match given(fields.client) {
            None => {}
            Some(Value::String(name)) if name.len() <= MAX_CLIENT && !name.chars().any(char::is_control) => {
                options.client = Some(name);
            }
            Some(_) => return Err("client must be a string of at most 255 bytes without control characters".into()),
        }
        let token = match given(fields.token) {
            None => None,
            Some(Value::String(token)) => Some(token),
            Some(_) => return Err("token must be a string".into()),
        };
        if let Some(prefetch) = given(fields.prefetch) {
            let valid = prefetch.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
            options.prefetch = valid.ok_or("prefetch must be an integer from 1 to 65535")?;
        }
        match given(fields.replies).as_ref().map(|value| value.as_str()) {
            None => {}
            Some(Some("verbose")) => options.quiet = false,
            Some(Some("quiet")) => options.quiet = true,
            Some(_) => return Err(r#"replies must be "verbose" or "quiet""#.into()),
        }
        match given(fields.confirm) {
            None => {}
            Some(Value::Bool(confirm)) => options.confirm = confirm,
            Some(_) => return Err("confirm must be true or false".into()),
        }
        Ok((options, token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_not_named_keep_their_value_and_a_wrong_value_changes_nothing() {
        let json = r#"{"prefetch":65535,"confirm":true,"client":"me","token":"t"}"#;
        let (first, token) = Options::default().changed_by(json).unwrap();
        assert_eq!(token.as_deref(), Some("t"));
        let (second, token) = first.changed_by(r#"{"replies":"quiet","confirm":null}"#).unwrap();
        assert_eq!(token, None);
        assert_eq!(second, Options { client: Some("me".into()), prefetch: 65535, quiet: true, confirm: true });
        for (json, reason) in [
            ("[]", "expected an object"),
            ("{", "EOF"),
            (r#"{"prefetch":0}"#, "prefetch must be an integer from 1 to 65535"),
            (r#"{"prefetch":65536}"#, "prefetch must be"),
            (r#"{"prefetch":1.5}"#, "prefetch must be"),
            (r#"{"prefetch":"1"}"#, "prefetch must be"),
            (r#"{"replies":"loud"}"#, r#"replies must be "verbose" or "quiet""#),
            (r#"{"confirm":1}"#, "confirm must be true or false"),
            (r#"{"client":7}"#, "client must be a string"),
            (r#"{"token":7}"#, "token must be a string"),
            (r#"{"prefetsch":1}"#, r#"unknown field "prefetsch""#),
            (r#"{"prefetch":1,"prefetch":2}"#, r#""prefetch" given twice at column "#),
        ] {
            let error = first.changed_by(json).unwrap_err();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
