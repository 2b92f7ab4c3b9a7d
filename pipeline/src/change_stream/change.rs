//! One change as the server sent it.

use std::borrow::Cow;

use broker_core::name::check_event_id;
use bson::raw::{RawArray, RawBsonRef, RawDocument, RawElement};
use bson::{RawDocumentBuf, Timestamp};
use serde_json::value::RawValue;

use super::extended_json::{Limits, NotWritten, write_document, write_element};
use super::position::Token;
use crate::mapping::{Lookup, MAX_MSG_DEPTH, Pointer, Skipped, digest, id_of};

/// The longest JSON text of a message, in bytes: with its frame it fits into the longest line that a storage keeps.
const MAX_MSG_BYTES: usize = 48 << 20;

/// A change event: the document that the stream gives, its bytes untouched.
#[derive(Debug, Clone)]
pub(super) struct Change(RawDocumentBuf);

impl Change {
    pub(super) fn new(document: RawDocumentBuf) -> Self {
        Self(document)
    }

    /// Its token. A change without one is not what a change stream sends.
    pub(super) fn token(&self) -> Option<Token> {
        self.0.get_document("_id").ok().map(|token| Token::new(token.to_owned()))
    }

    /// `insert`, `drop`, or whatever a later server comes up with.
    pub(super) fn operation(&self) -> &str {
        self.0.get_str("operationType").unwrap_or_default()
    }

    /// When it happened, by the cluster's clock.
    pub(super) fn cluster_time(&self) -> Option<Timestamp> {
        self.0.get_timestamp("clusterTime").ok()
    }

    /// The collection, and the one that it is renamed to.
    pub(super) fn collections(&self) -> (Option<&str>, Option<&str>) {
        let coll = |key| self.0.get_document(key).ok().and_then(|ns| ns.get_str("coll").ok());
        (coll("ns"), coll("to"))
    }

    /// Its length in BSON.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_bytes().len()
    }
}

/// The id of the event made of the change with this token: the same each time that the change is read. A digest, because a token has
/// some 150 characters and people type ids.
pub(super) fn derived_id(source: &str, token: &Token) -> String {
    format!("{:032x}", digest(&["change", source, &token.text()]))
}

/// What a pointer led to.
enum Found<'a> {
    Whole(&'a RawDocument),
    Element(RawElement<'a>),
    /// Part of the extended JSON of a value, as `/documentKey/_id/$oid`.
    Json(String),
}

impl Change {
    fn look(&self, pointer: &Pointer) -> Result<Option<Found<'_>>, Skipped> {
        let mut at = Found::Whole(&self.0);
        let mut names = pointer.names();
        while let [name, rest @ ..] = names {
            let next = match &at {
                Found::Whole(document) => field(document, name)?,
                Found::Element(element) => match element.value() {
                    Ok(RawBsonRef::Document(document)) => field(document, name)?,
                    Ok(RawBsonRef::Array(array)) => item(array, name)?,
                    _ => return within(element, &Pointer::of(names)),
                },
                Found::Json(_) => None,
            };
            let Some(element) = next else { return Ok(None) };
            at = Found::Element(element);
            names = rest;
        }
        Ok(Some(at))
    }
}

fn field<'a>(document: &'a RawDocument, name: &str) -> Result<Option<RawElement<'a>>, Skipped> {
    for element in document.iter_elements() {
        let element = element.map_err(|_| Skipped::Malformed)?;
        if element.key().as_str() == name {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

fn item<'a>(array: &'a RawArray, name: &str) -> Result<Option<RawElement<'a>>, Skipped> {
    // An index has no leading zeros (RFC 6901, section 4).
    let Some(index) = name.parse::<usize>().ok().filter(|index| index.to_string() == name) else { return Ok(None) };
    let items = RawDocument::from_bytes(array.as_bytes()).map_err(|_| Skipped::Malformed)?;
    items.iter_elements().nth(index).transpose().map_err(|_| Skipped::Malformed)
}

fn within<'a>(element: &RawElement<'_>, rest: &Pointer) -> Result<Option<Found<'a>>, Skipped> {
    let json = text(&Found::Element(element.clone()))?;
    let raw: &RawValue = serde_json::from_str(&json).map_err(|_| Skipped::Malformed)?;
    Ok(rest.find(raw).map(|found| Found::Json(found.get().to_owned())))
}

fn text(found: &Found<'_>) -> Result<String, Skipped> {
    let limits = Limits { depth: MAX_MSG_DEPTH, bytes: MAX_MSG_BYTES };
    let mut out = Vec::new();
    let written = match found {
        Found::Whole(document) => write_document(&mut out, document, limits),
        Found::Element(element) => write_element(&mut out, element, limits),
        Found::Json(json) => return Ok(json.clone()),
    };
    match written {
        Ok(()) if out.len() > MAX_MSG_BYTES => Err(Skipped::TooLarge),
        Ok(()) => String::from_utf8(out).map_err(|_| Skipped::Malformed),
        Err(NotWritten::TooDeep) => Err(Skipped::TooDeep),
        Err(NotWritten::TooLong) => Err(Skipped::TooLarge),
        Err(NotWritten::Malformed) => Err(Skipped::Malformed),
    }
}

impl Lookup for Change {
    fn find(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        self.look(pointer)?.map(|found| text(&found).map(Cow::Owned)).transpose()
    }

    /// An ObjectId can be an id as well: as its 24 digits.
    fn id(&self, pointer: &Pointer) -> Option<String> {
        let found = self.look(pointer).ok().flatten()?;
        if let Found::Element(element) = &found
            && let Ok(RawBsonRef::ObjectId(id)) = element.value()
        {
            return Some(id.to_hex());
        }
        text(&found).ok().and_then(|json| id_of(&json)).filter(|id| check_event_id(id).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::{DateTime, Document, doc};

    use super::*;

    fn change(document: Document) -> Change {
        Change::new(RawDocumentBuf::try_from(&document).unwrap())
    }

    fn insert() -> Change {
        change(doc! {
            "_id": { "_data": "8265" }, "operationType": "insert", "clusterTime": Timestamp { time: 9, increment: 1 },
            "ns": { "db": "d", "coll": "tweets" }, "documentKey": { "_id": ObjectId::from_bytes([2; 12]) },
            "fullDocument": { "_id": ObjectId::from_bytes([2; 12]), "list": [1, { "x": "é" }], "n": 7_i64, "at": DateTime::from_millis(0), "s": "has blanks" },
        })
    }

    #[test]
    fn pointers_go_through_documents_lists_and_the_extended_json_of_a_value() {
        let change = insert();
        for (pointer, expected) in [
            ("/operationType", Some("\"insert\"")),
            ("/fullDocument/list", Some("[1,{\"x\":\"é\"}]")),
            ("/fullDocument/list/1/x", Some("\"é\"")),
            ("/fullDocument/list/01", None),
            ("/fullDocument/list/2", None),
            ("/fullDocument/at", Some("{\"$date\":\"1970-01-01T00:00:00Z\"}")),
            ("/fullDocument/at/$date", Some("\"1970-01-01T00:00:00Z\"")),
            ("/documentKey/_id/$oid", Some("\"020202020202020202020202\"")),
            ("/documentKey/_id/x", None),
            ("/fullDocument/s/x", None),
            ("/gone", None),
        ] {
            let found = change.find(&Pointer::new(pointer).unwrap()).unwrap();
            assert_eq!(found.as_deref(), expected, "{pointer}");
        }
        let whole = change.find(&Pointer::new("").unwrap()).unwrap().unwrap();
        assert!(whole.starts_with("{\"_id\":{\"_data\":\"8265\"},\"operationType\":\"insert\""), "{whole}");
    }

    #[test]
    fn an_object_id_a_number_and_a_string_can_be_ids() {
        let change = insert();
        let id = |pointer| change.id(&Pointer::new(pointer).unwrap());
        assert_eq!(id("/documentKey/_id").as_deref(), Some("020202020202020202020202"));
        assert_eq!(id("/fullDocument/n").as_deref(), Some("7"));
        assert_eq!(id("/_id/_data").as_deref(), Some("8265"));
        assert_eq!(id("/fullDocument/s"), None);
        assert_eq!(id("/fullDocument"), None);
    }

    #[test]
    fn ids_belong_to_source_and_token() {
        let token = insert().token().unwrap();
        assert_eq!(derived_id("a", &token), derived_id("a", &token));
        assert_ne!(derived_id("a", &token), derived_id("b", &token));
        assert_eq!(derived_id("a", &token).len(), 32);
    }

    #[test]
    fn a_change_that_lacks_everything_is_no_trouble() {
        let change = change(doc! {});
        assert_eq!(change.operation(), "");
        assert!(change.token().is_none() && change.cluster_time().is_none());
        assert_eq!(change.collections(), (None, None));
    }
}
