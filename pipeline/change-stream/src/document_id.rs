//! Derives an event's id from a value, such as a document's `_id`. Values that MongoDB considers equal have the same id, all others
//! have different ones.
//!
//! | value | id |
//! | --- | --- |
//! | an ObjectId | its 24 hexadecimal digits |
//! | a string | the string, unless it looks like another form or is no valid event id |
//! | any other | `<type>:<relaxed Extended JSON>` |
//! | any of these with blanks, or over 255 bytes | a digest of 32 hexadecimal digits |

use broker_core::name::check_event_id;
use bson::raw::RawBsonRef;
use bson::spec::ElementType;
use pipeline_source::mapping::digest;

use super::extended_json::{Limits, write_identity};
use super::raw::Field;

/// Above MongoDB's own limits for a document, so that no stored value exceeds them.
const LIMITS: Limits = Limits { depth: 255, bytes: 64 << 20 };

/// The names that can precede a colon in an id: MongoDB's type names, with `number` for its four numeric types, and `json` for a
/// part of a value.
const TYPES: [&str; 20] = [
    "string",
    "number",
    "object",
    "array",
    "binData",
    "undefined",
    "objectId",
    "bool",
    "date",
    "null",
    "regex",
    "dbPointer",
    "javascript",
    "javascriptWithScope",
    "timestamp",
    "minKey",
    "maxKey",
    "json",
    // Other names of types above, reserved so that no string looks like one of them.
    "symbol",
    "decimal",
];

/// The id of a value; `None` if it is malformed.
pub(super) fn of_value(field: &Field<'_>) -> Option<String> {
    match field.element.value() {
        Ok(RawBsonRef::ObjectId(id)) => return Some(id.to_hex()),
        // MongoDB considers a symbol equal to the string of the same text.
        Ok(RawBsonRef::String(text) | RawBsonRef::Symbol(text))
            if check_event_id(text).is_ok() && !reads_like_another(text) =>
        {
            return Some(text.to_owned());
        }
        _ => {}
    }
    let mut id = format!("{}:", name(field.element.element_type())).into_bytes();
    write_identity(&mut id, field, LIMITS).ok()?;
    String::from_utf8(id).ok().map(fitted)
}

/// The id of a part of a value's Extended JSON, such as the string at `/documentKey/_id/$oid`; `None` for null.
pub(super) fn of_json(json: &str) -> Option<String> {
    if json == "null" {
        return None;
    }
    match serde_json::from_str::<String>(json) {
        Ok(text) if check_event_id(&text).is_ok() && !names_a_type(&text) => Some(text),
        _ => Some(fitted(format!("json:{json}"))),
    }
}

/// The id of a document in one of several collections.
pub(super) fn within(collection: &str, id: &str) -> String {
    // A slash in the collection's name would make the first slash ambiguous.
    let whole = format!("{collection}/{id}");
    if collection.contains('/') || check_event_id(&whole).is_err() {
        return format!("{:032x}", digest(&["document", collection, id]));
    }
    whole
}

fn fitted(id: String) -> String {
    if check_event_id(&id).is_ok() { id } else { format!("{:032x}", digest(&["document", &id])) }
}

/// Whether a string could be mistaken for an ObjectId, a digest, or a value with its type.
fn reads_like_another(text: &str) -> bool {
    let digits = matches!(text.len(), 24 | 32) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digits || names_a_type(text)
}

fn names_a_type(text: &str) -> bool {
    text.split_once(':').is_some_and(|(name, _)| TYPES.contains(&name))
}

fn name(kind: ElementType) -> &'static str {
    match kind {
        ElementType::Double | ElementType::Int32 | ElementType::Int64 | ElementType::Decimal128 => "number",
        ElementType::String | ElementType::Symbol => "string",
        ElementType::EmbeddedDocument => "object",
        ElementType::Array => "array",
        ElementType::Binary => "binData",
        ElementType::Undefined => "undefined",
        ElementType::ObjectId => "objectId",
        ElementType::Boolean => "bool",
        ElementType::DateTime => "date",
        ElementType::Null => "null",
        ElementType::RegularExpression => "regex",
        ElementType::DbPointer => "dbPointer",
        ElementType::JavaScriptCode => "javascript",
        ElementType::JavaScriptCodeWithScope => "javascriptWithScope",
        ElementType::Timestamp => "timestamp",
        ElementType::MinKey => "minKey",
        ElementType::MaxKey => "maxKey",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bson::oid::ObjectId;
    use bson::spec::BinarySubtype;
    use bson::{
        Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, bson, doc,
    };

    use super::*;
    use crate::raw::fields;

    fn id(value: impl Into<Bson>) -> String {
        raw_id(&RawDocumentBuf::try_from(&doc! { "_id": value.into() }).unwrap())
    }

    fn raw_id(document: &RawDocumentBuf) -> String {
        let id = of_value(&fields(document).next().unwrap().unwrap()).unwrap();
        assert_eq!(check_event_id(&id), Ok(()), "{id}");
        id
    }

    fn decimal(text: &str) -> Bson {
        Bson::Decimal128(text.parse::<Decimal128>().unwrap())
    }

    fn binary(subtype: BinarySubtype) -> Bson {
        Bson::Binary(Binary { subtype, bytes: vec![7; 16] })
    }

    /// A value of each type and its id.
    fn all_types() -> Vec<(Bson, &'static str)> {
        let regex = Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() };
        let scoped = JavaScriptCodeWithScope { code: "g()".to_owned(), scope: doc! { "n": 1_i64 } };
        let pointer =
            serde_json::json!({ "$dbPointer": { "$ref": "d.c", "$id": { "$oid": "020202020202020202020202" } } });
        vec![
            (Bson::ObjectId(ObjectId::from_bytes([2; 12])), "020202020202020202020202"),
            (bson!("a"), "a"),
            (bson!("1"), "1"),
            (bson!("é"), "é"),
            (bson!(1), "number:1"),
            (bson!(1.5), "number:1.5"),
            (decimal("0.1"), r#"number:{"$numberDecimal":"1E-1"}"#),
            (bson!(f64::NAN), r#"number:{"$numberDouble":"NaN"}"#),
            (bson!({ "b": 1, "a": [1.0, "x"] }), r#"object:{"b":1,"a":[1,"x"]}"#),
            (bson!([1, []]), "array:[1,[]]"),
            (
                binary(BinarySubtype::Generic),
                r#"binData:{"$binary":{"base64":"BwcHBwcHBwcHBwcHBwcHBw==","subType":"00"}}"#,
            ),
            (
                binary(BinarySubtype::Uuid),
                r#"binData:{"$binary":{"base64":"BwcHBwcHBwcHBwcHBwcHBw==","subType":"04"}}"#,
            ),
            (Bson::Undefined, r#"undefined:{"$undefined":true}"#),
            (bson!(true), "bool:true"),
            (Bson::DateTime(DateTime::from_millis(0)), r#"date:{"$date":"1970-01-01T00:00:00Z"}"#),
            (Bson::DateTime(DateTime::from_millis(-1)), r#"date:{"$date":{"$numberLong":"-1"}}"#),
            (Bson::Null, "null:null"),
            (Bson::RegularExpression(regex), r#"regex:{"$regularExpression":{"options":"i","pattern":"^a"}}"#),
            (
                Bson::try_from(pointer).unwrap(),
                r#"dbPointer:{"$dbPointer":{"$id":{"$oid":"020202020202020202020202"},"$ref":"d.c"}}"#,
            ),
            (Bson::JavaScriptCode("f()".to_owned()), r#"javascript:{"$code":"f()"}"#),
            (Bson::JavaScriptCodeWithScope(scoped), r#"javascriptWithScope:{"$code":"g()","$scope":{"n":1}}"#),
            (Bson::Timestamp(Timestamp { time: 5, increment: 6 }), r#"timestamp:{"$timestamp":{"t":5,"i":6}}"#),
            (Bson::MinKey, r#"minKey:{"$minKey":1}"#),
            (Bson::MaxKey, r#"maxKey:{"$maxKey":1}"#),
        ]
    }

    #[test]
    fn every_type_of_bson_gives_an_id_of_its_own() {
        let mut seen = HashSet::new();
        for (value, expected) in all_types() {
            assert_eq!(id(value), expected);
            // The string of the same text is a different value.
            let text = if expected == "a" || expected == "1" || expected == "é" { "b" } else { expected };
            assert!(seen.insert(expected.to_owned()), "{expected}");
            assert!(text == "b" || seen.insert(id(text)), "{text}");
        }
    }

    #[test]
    fn values_that_mongodb_holds_equal_give_one_id() {
        for (values, expected) in [
            (vec![bson!(1), bson!(1_i64), bson!(1.0), decimal("1"), decimal("1.00"), decimal("10E-1")], "number:1"),
            (vec![bson!(0), bson!(-0.0), decimal("-0"), decimal("0E+10")], "number:0"),
            (vec![bson!(0.5), decimal("0.50")], "number:0.5"),
            (vec![bson!(i64::MIN), bson!(-9_223_372_036_854_775_808.0)], "number:-9223372036854775808"),
            (vec![bson!(1e300), bson!(1e300)], "number:1e300"),
            (
                vec![bson!(f64::NAN), bson!(-f64::NAN), bson!(f64::from_bits(0x7ff8_0000_0000_0001)), decimal("NaN")],
                r#"number:{"$numberDouble":"NaN"}"#,
            ),
            (vec![bson!(f64::NEG_INFINITY), decimal("-Infinity")], r#"number:{"$numberDouble":"-Infinity"}"#),
            (vec![bson!({ "a": [1] }), bson!({ "a": [1.0] }), bson!({ "a": [decimal("1")] })], r#"object:{"a":[1]}"#),
            (vec![bson!("s"), Bson::Symbol("s".to_owned())], "s"),
        ] {
            for value in values {
                assert_eq!(id(value.clone()), expected, "{value:?}");
            }
        }
    }

    #[test]
    fn a_string_that_looks_like_another_form_is_marked_as_a_string() {
        for text in ["0202020202020202020202aa", "number:1", "object:{}", "json:1", &"0a".repeat(16)] {
            assert_eq!(id(text), format!("string:\"{text}\""));
        }
        for text in ["0202020202020202020202AA", "02", "urn:1", "a:b", "number"] {
            assert_eq!(id(text), text);
        }
        assert_eq!(id(""), "string:\"\"");
    }

    #[test]
    fn values_that_cannot_be_ids_have_distinct_digests() {
        let long = "x".repeat(300);
        let texts = ["has blanks", "has  blanks", "a\u{2028}b", &long, &"x".repeat(301)];
        let mut ids: Vec<String> = texts.iter().map(|text| id(*text)).collect();
        ids.push(id(bson!({ "a": "has blanks" })));
        ids.push(id(bson!(["has blanks"])));
        let mut deep = bson!({});
        for _ in 0..170 {
            deep = bson!({ "x": deep });
        }
        ids.push(id(deep));
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids:?}");
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
        assert_eq!(id("has blanks"), id("has blanks"));
        assert_eq!(id("x".repeat(255)), "x".repeat(255));
    }

    #[test]
    fn strings_that_are_not_utf_8_have_distinct_ids() {
        let with = |byte: u8| {
            let mut bytes = RawDocumentBuf::try_from(&doc! { "_id": "ab" }).unwrap().into_bytes();
            let at = bytes.windows(2).position(|pair| pair == b"ab").unwrap();
            bytes[at] = byte;
            raw_id(&RawDocumentBuf::from_bytes(bytes).unwrap())
        };
        assert_eq!(with(0xff), r#"string:{"$notUtf8":"03000000ff6200"}"#);
        assert_ne!(with(0xff), with(0xfe));
    }

    #[test]
    fn an_id_names_its_collection_where_there_are_several() {
        assert_eq!(within("orders", "number:1"), "orders/number:1");
        let mut ids = HashSet::new();
        for (collection, id) in
            [("a", "b/c"), ("a/b", "c"), ("a b", "c"), ("a", "c"), ("b", "c"), (&"x".repeat(255), "c")]
        {
            let id = within(collection, id);
            assert_eq!(check_event_id(&id), Ok(()), "{id}");
            assert!(ids.insert(id), "{collection}");
        }
    }

    #[test]
    fn part_of_a_value_is_an_id_as_well() {
        assert_eq!(of_json("\"020202020202020202020202\"").as_deref(), Some("020202020202020202020202"));
        assert_eq!(of_json("7").as_deref(), Some("json:7"));
        assert_eq!(of_json("\"json:7\"").as_deref(), Some(r#"json:"json:7""#));
        assert_eq!(of_json("\"a b\"").unwrap().len(), 32);
        assert_eq!(of_json("null"), None);
    }
}
