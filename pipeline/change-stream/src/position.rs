//! The position to continue from: the resume token, its scope, and its time.
//!
//! A position is stored as the source's cursor, in the same atomic batch as the events before it:
//!
//! ```text
//! {"token":{"_data":"8265…"},"time":1700000000,"scope":{"database":"d","collections":["a"],"operations":["insert"]}}
//! ```
//!
//! - The token is stored whole, as Extended JSON, because its format is MongoDB's own affair.
//! - The scope detects a changed configuration. MongoDB would accept the token for another set of collections, and changes would be
//!   missing without an error.
//! - The time serves gap events and the lag only; reading never resumes from it.

use bson::{Bson, RawDocumentBuf};
use mongodb::change_stream::event::ResumeToken;
use serde::{Deserialize, Serialize};

use super::config::Scope;
use super::extended_json::{Limits, write_document};

/// A resume token. It is opaque: stored, compared and handed back, never parsed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token(RawDocumentBuf);

impl Token {
    /// The token in a change's `_id`.
    pub(super) fn new(document: RawDocumentBuf) -> Self {
        Self(document)
    }

    /// Converts the driver's token.
    pub(super) fn from_driver(token: &ResumeToken) -> Option<Self> {
        bson::serialize_to_raw_document_buf(token).ok().map(Self)
    }

    /// Converts to the driver's token.
    pub(super) fn to_driver(&self) -> Option<ResumeToken> {
        bson::deserialize_from_slice(self.0.as_bytes()).ok()
    }

    /// A text for logs and derived ids, equal for equal tokens: the string in `_data` if that is all of it, else the whole as JSON.
    pub(super) fn text(&self) -> String {
        match self.0.get_str("_data") {
            Ok(data) if self.0.iter().count() == 1 => data.to_owned(),
            _ => self.json(),
        }
    }

    fn json(&self) -> String {
        let mut out = Vec::new();
        // Tokens are shallow and short. One beyond these limits would be cut off, and reading it back would report that.
        let _written = write_document(&mut out, &self.0, Limits { depth: 100, bytes: 1 << 20 });
        String::from_utf8(out).unwrap_or_default()
    }
}

/// A position in a stream; committed with the events before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Position {
    pub(super) token: Token,
    /// The cluster's time when the token was current, in seconds since 1970.
    pub(super) time: u32,
}

/// The error for a stored position that cannot be used; the text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(String);

#[derive(Serialize, Deserialize)]
struct Stored {
    token: serde_json::Value,
    time: u32,
    scope: Scope,
}

impl Position {
    /// The cursor to store.
    pub(super) fn to_cursor(&self, scope: &Scope) -> String {
        let scope = serde_json::to_string(scope).unwrap_or_default();
        format!("{{\"token\":{},\"time\":{},\"scope\":{scope}}}", self.token.json(), self.time)
    }

    /// Reads a stored cursor, and refuses one of another scope.
    pub(super) fn from_cursor(cursor: &str, scope: &Scope) -> Result<Self, Unusable> {
        let unreadable = || {
            Unusable(
                "the stored position is not one of a change stream: give the source another name to start from now"
                    .to_owned(),
            )
        };
        let stored: Stored = serde_json::from_str(cursor).map_err(|_| unreadable())?;
        if stored.scope != *scope {
            return Err(Unusable(changed(&stored.scope, scope)));
        }
        let token = match Bson::try_from(stored.token) {
            Ok(Bson::Document(document)) => RawDocumentBuf::try_from(&document).map_err(|_| unreadable())?,
            _ => return Err(unreadable()),
        };
        Ok(Self { token: Token(token), time: stored.time })
    }
}

/// Describes the difference and how to continue.
fn changed(was: &Scope, is: &Scope) -> String {
    let list = |names: &[String]| match names {
        [] => "the whole database".to_owned(),
        names => names.join(", "),
    };
    let mut changes = Vec::new();
    if was.database != is.database {
        changes.push(format!("database: was {}, is {}", was.database, is.database));
    }
    if was.collections != is.collections {
        changes.push(format!("collection: was {}, is {}", list(&was.collections), list(&is.collections)));
    }
    if was.operations != is.operations {
        changes.push(format!("operations: was {}, is {}", list(&was.operations), list(&is.operations)));
    }
    format!(
        "the stored resume token belongs to another stream ({}): undo that to continue without a gap, or give the source another name \
        to start from now",
        changes.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn scope(collections: &[&str]) -> Scope {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Scope { database: "d".to_owned(), collections: names(collections), operations: names(&["delete", "insert"]) }
    }

    #[test]
    fn a_position_is_stored_and_read_back() {
        for token in [
            rawdoc! { "_data": "8265" },
            rawdoc! { "_data": "82", "_typeBits": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2] } },
        ] {
            let position = Position { token: Token::new(token), time: 77 };
            let cursor = position.to_cursor(&scope(&["a"]));
            assert_eq!(Position::from_cursor(&cursor, &scope(&["a"])), Ok(position.clone()));
            let driver = position.token.to_driver().unwrap();
            assert_eq!(Token::from_driver(&driver), Some(position.token));
        }
        assert_eq!(Token::new(rawdoc! { "_data": "8265" }).text(), "8265");
    }

    #[test]
    fn a_token_of_another_scope_is_refused_with_what_changed() {
        let cursor = Position { token: Token::new(rawdoc! { "_data": "82" }), time: 0 }.to_cursor(&scope(&["a"]));
        let error = Position::from_cursor(&cursor, &scope(&["a", "b"])).unwrap_err().to_string();
        assert!(error.contains("collection: was a, is a, b") && error.contains("another name"), "{error}");
        let error = Position::from_cursor(&cursor, &scope(&[])).unwrap_err().to_string();
        assert!(error.contains("is the whole database"), "{error}");
        for cursor in ["", "1234-0", "{\"token\":1,\"time\":0}", "[1]"] {
            let error = Position::from_cursor(cursor, &scope(&[])).unwrap_err().to_string();
            assert!(error.contains("not one of a change stream"), "{error}");
        }
    }
}
