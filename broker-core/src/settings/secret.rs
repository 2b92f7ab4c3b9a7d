//! Strings that logs and messages must not show.

use std::fmt;

use serde::Deserialize;

/// A token, a header's value, a URL with a password: `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretString(String);

impl SecretString {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for its intended recipient.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// `url` without the parts that can be secret: user, password, and the values of its query.
#[must_use]
pub fn shown_url(url: &str) -> String {
    let (rest, query) = url.split_once('?').map_or((url, None), |(rest, query)| (rest, Some(query)));
    let mut shown = match rest.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit_once('@').map_or(authority.to_owned(), |(_, host)| format!("(hidden)@{host}"));
            format!("{scheme}://{host}{path}")
        }
        None => rest.to_owned(),
    };
    if let Some(query) = query {
        let names = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) => format!("{name}=(hidden)"),
            None => "(hidden)".to_owned(),
        });
        shown.push('?');
        shown.push_str(&names.collect::<Vec<_>>().join("&"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_query_of_a_url_are_hidden() {
        for (url, shown) in [
            ("http://localhost:4000/tweets/1", "http://localhost:4000/tweets/1"),
            ("https://u:p@host/a?token=x&y", "https://(hidden)@host/a?token=(hidden)&(hidden)"),
            ("https://u:p@host", "https://(hidden)@host"),
            ("local", "local"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }

    #[test]
    fn debug_hides_it() {
        assert_eq!(format!("{:?}", SecretString::new("x")), "(hidden)");
    }
}
