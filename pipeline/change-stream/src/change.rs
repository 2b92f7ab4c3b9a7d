//! Reads one change, as raw bytes.

use std::borrow::Cow;

use bson::raw::{RawArray, RawBsonRef, RawDocument};
use bson::{RawDocumentBuf, Timestamp};
use serde_json::value::RawValue;

use super::document_id;
use super::extended_json::{Limits, NotWritten, write_document, write_element};
use super::position::Token;
use super::raw::{Field, fields};
use pipeline_source::mapping::{Lookup, MAX_MSG_DEPTH, Pointer, Skipped, digest};

/// The longest JSON text of a message, in bytes. Framed, it still fits into the longest line of a storage.
const MAX_MSG_BYTES: usize = 48 << 20;

/// A change event: the stream's document in raw BSON.
#[derive(Debug, Clone)]
pub(super) struct Change(RawDocumentBuf);

impl Change {
    pub(super) fn new(document: RawDocumentBuf) -> Self {
        Self(document)
    }

    /// The resume token, which every change of a stream has.
    pub(super) fn token(&self) -> Option<Token> {
        self.0.get_document("_id").ok().map(|token| Token::new(token.to_owned()))
    }

    /// The operation, such as `insert`; later servers may add others.
    pub(super) fn operation(&self) -> &str {
        self.0.get_str("operationType").unwrap_or_default()
    }

    /// The time of the change, by the cluster's clock.
    pub(super) fn cluster_time(&self) -> Option<Timestamp> {
        self.0.get_timestamp("clusterTime").ok()
    }

    /// The collection, and its new name if the change renames it.
    pub(super) fn collections(&self) -> (Option<&str>, Option<&str>) {
        let coll = |key| self.0.get_document(key).ok().and_then(|ns| ns.get_str("coll").ok());
        (coll("ns"), coll("to"))
    }

    /// The length in bytes of BSON.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_bytes().len()
    }
}

/// The id for the change with this token, equal each time that the change is read. It is a digest, because a token has some 150
/// characters and people type ids.
pub(super) fn derived_id(source: &str, token: &Token) -> String {
    format!("{:032x}", digest(&["change", source, &token.text()]))
}

/// The target of a pointer.
enum Found<'a> {
    Whole(&'a RawDocument),
    Field(Field<'a>),
    /// A part of a value's Extended JSON, as in `/documentKey/_id/$oid`.
    Json(String),
}

impl Change {
    fn look(&self, pointer: &Pointer) -> Result<Option<Found<'_>>, Skipped> {
        let mut at = Found::Whole(&self.0);
        let mut names = pointer.names();
        while let [name, rest @ ..] = names {
            let next = match &at {
                Found::Whole(document) => field(document, name)?,
                Found::Field(found) => match found.element.value() {
                    Ok(RawBsonRef::Document(document)) => field(document, name)?,
                    Ok(RawBsonRef::Array(array)) => item(array, name)?,
                    _ => return within(found, &Pointer::of(names)),
                },
                Found::Json(_) => None,
            };
            let Some(field) = next else { return Ok(None) };
            at = Found::Field(field);
            names = rest;
        }
        Ok(Some(at))
    }
}

fn field<'a>(document: &'a RawDocument, name: &str) -> Result<Option<Field<'a>>, Skipped> {
    for field in fields(document) {
        let field = field.map_err(|_| Skipped::Malformed)?;
        if field.element.key().as_str() == name {
            return Ok(Some(field));
        }
    }
    Ok(None)
}

fn item<'a>(array: &'a RawArray, name: &str) -> Result<Option<Field<'a>>, Skipped> {
    // An index has no leading zeros (RFC 6901, section 4).
    let Some(index) = name.parse::<usize>().ok().filter(|index| index.to_string() == name) else { return Ok(None) };
    let items = RawDocument::from_bytes(array.as_bytes()).map_err(|_| Skipped::Malformed)?;
    fields(items).nth(index).transpose().map_err(|_| Skipped::Malformed)
}

fn within<'a>(field: &Field<'_>, rest: &Pointer) -> Result<Option<Found<'a>>, Skipped> {
    let json = text(&Found::Field(field.clone()))?;
    let raw: &RawValue = serde_json::from_str(&json).map_err(|_| Skipped::Malformed)?;
    Ok(rest.find(raw).map(|found| Found::Json(found.get().to_owned())))
}

fn text(found: &Found<'_>) -> Result<String, Skipped> {
    let limits = Limits { depth: MAX_MSG_DEPTH, bytes: MAX_MSG_BYTES };
    let mut out = Vec::new();
    let written = match found {
        Found::Whole(document) => write_document(&mut out, document, limits),
        Found::Field(field) => write_element(&mut out, &field.element, limits),
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

impl Change {
    /// See [`Lookup::find`].
    pub(super) fn find(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        self.look(pointer)?.map(|found| text(&found).map(Cow::Owned)).transpose()
    }

    /// The change as data for a mapping. With `several` collections an id includes its collection, because ids may repeat across them.
    pub(super) fn data(&self, several: bool) -> Data<'_> {
        Data { change: self, several }
    }
}

/// A change as seen by a [`Mapping`](pipeline_source::mapping::Mapping).
pub(super) struct Data<'a> {
    change: &'a Change,
    several: bool,
}

impl Lookup for Data<'_> {
    fn find(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        self.change.find(pointer)
    }

    /// Any value is an id, except the whole change. Null is an id only as the key of a document; elsewhere it means no value.
    fn id(&self, pointer: &Pointer) -> Option<String> {
        let id = match self.change.look(pointer).ok().flatten()? {
            Found::Whole(_) => return None,
            Found::Json(json) => document_id::of_json(&json)?,
            Found::Field(field) => {
                let none = matches!(field.element.value(), Ok(RawBsonRef::Null | RawBsonRef::Undefined));
                if none && pointer.names().first().is_none_or(|name| name != "documentKey") {
                    return None;
                }
                document_id::of_value(&field)?
            }
        };
        match self.change.collections() {
            (Some(collection), _) if self.several => Some(document_id::within(collection, &id)),
            _ => Some(id),
        }
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
    fn pointers_reach_into_documents_lists_and_extended_json() {
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
    fn a_value_is_an_id_and_names_its_collection_where_there_are_several() {
        let change = insert();
        let id = |pointer, several| change.data(several).id(&Pointer::new(pointer).unwrap());
        assert_eq!(id("/documentKey/_id", false).as_deref(), Some("020202020202020202020202"));
        assert_eq!(id("/documentKey/_id", true).as_deref(), Some("tweets/020202020202020202020202"));
        assert_eq!(id("/documentKey/_id/$oid", false).as_deref(), Some("020202020202020202020202"));
        assert_eq!(id("/fullDocument/n", false).as_deref(), Some("number:7"));
        assert_eq!(id("/_id/_data", false).as_deref(), Some("8265"));
        assert_eq!(id("/fullDocument/s", false).unwrap().len(), 32);
        assert_eq!(id("/gone", true), None);
        assert_eq!(id("", false), None, "each change would have an id of its own");
    }

    #[test]
    fn null_is_an_id_as_the_key_of_a_document_only() {
        let change = change(doc! { "documentKey": { "_id": null }, "fullDocument": { "n": null } });
        let id = |pointer| change.data(false).id(&Pointer::new(pointer).unwrap());
        assert_eq!(id("/documentKey/_id").as_deref(), Some("null:null"));
        assert_eq!(id("/fullDocument/n"), None);
        assert_eq!(id("/fullDocument/n/x"), None);
    }

    #[test]
    fn ids_belong_to_source_and_token() {
        let token = insert().token().unwrap();
        assert_eq!(derived_id("a", &token), derived_id("a", &token));
        assert_ne!(derived_id("a", &token), derived_id("b", &token));
        assert_eq!(derived_id("a", &token).len(), 32);
    }

    #[test]
    fn an_empty_change_is_read_without_failing() {
        let change = change(doc! {});
        assert_eq!(change.operation(), "");
        assert!(change.token().is_none() && change.cluster_time().is_none());
        assert_eq!(change.collections(), (None, None));
    }
}
