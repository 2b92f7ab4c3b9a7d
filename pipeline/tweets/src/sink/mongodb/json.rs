//! Converts JSON to BSON value by value: a tweet that contains `"$date"` is not extended JSON.

use std::fmt;

use bson::{Bson, Document};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// MongoDB's size limit for one document, in bytes.
const MAX_DOCUMENT: usize = 16 << 20;

/// The document in `json`, with its fields in order. Integers use the shortest type that fits; those beyond 64 bits become
/// floating-point numbers, as in JSON readers.
///
/// # Errors
/// The reason MongoDB will never accept it, in words for an operator.
pub(super) fn to_bson(json: &str) -> Result<Document, String> {
    match serde_json::from_str(json) {
        Ok(Plain(Bson::Document(document))) => {
            let raw = bson::RawDocumentBuf::try_from(&document)
                .map_err(|error| format!("BSON cannot represent it: {error}"))?;
            if raw.as_bytes().len() > MAX_DOCUMENT {
                return Err("it is larger than the 16 MiB that MongoDB accepts".to_owned());
            }
            Ok(document)
        }
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

struct Plain(Bson);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Plain)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Bson, E> {
        Ok(integer(value))
    }
    #[expect(clippy::cast_precision_loss, reason = "as in every JSON reader that uses floating-point numbers")]
    fn visit_u64<E>(self, value: u64) -> Result<Bson, E> {
        Ok(i64::try_from(value).map_or(Bson::Double(value as f64), integer))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Bson, E> {
        Ok(Bson::Double(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Bson, E> {
        Ok(Bson::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bson, A::Error> {
        let mut items = Vec::new();
        while let Some(Plain(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Bson::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bson, A::Error> {
        let mut document = Document::new();
        while let Some((key, Plain(value))) = map.next_entry::<String, Plain>()? {
            document.insert(key, value);
        }
        Ok(Bson::Document(document))
    }
}

fn integer(value: i64) -> Bson {
    i32::try_from(value).map_or(Bson::Int64(value), Bson::Int32)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn values_keep_their_type_and_fields_their_order() {
        let json =
            r#"{"z":1,"a":[2147483648,1.0,-0.5,true,null,"é"],"big":18446744073709551615,"d":{"$date":"x","$oid":1}}"#;
        let expected = doc! {
            "z": 1_i32, "a": [2_147_483_648_i64, 1.0, -0.5, true, Bson::Null, "é"], "big": 18_446_744_073_709_551_615.0,
            "d": { "$date": "x", "$oid": 1 },
        };
        let got = to_bson(json).unwrap();
        assert_eq!(got, expected);
        assert_eq!(got.keys().collect::<Vec<_>>(), ["z", "a", "big", "d"]);
    }

    #[test]
    fn documents_that_mongodb_never_accepts_have_a_reason() {
        for (json, why) in [
            ("[1]".to_owned(), "not a JSON object"),
            ("{\"a\":panic}".to_owned(), "not JSON"),
            ("{\"a\\u0000b\":1}".to_owned(), "BSON cannot represent it"),
            (format!("{{\"a\":\"{}\"}}", "x".repeat(17 << 20)), "16 MiB"),
            (format!("{{\"a\":{}}}", "[".repeat(1000)), "not JSON"),
        ] {
            let error = to_bson(&json).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
