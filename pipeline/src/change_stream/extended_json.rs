//! BSON as relaxed extended JSON (MongoDB Extended JSON v2), written from the raw bytes: the order of the fields is kept, and no
//! tree is built.
//!
//! Relaxed, because consumers want numbers as numbers and dates as text; what has no place in JSON (an infinity, a timestamp, binary
//! data) is an object whose key begins with `$`, from which the value can be had again. A 64-bit integer is a JSON number: a
//! reader that makes floating-point numbers of these loses digits beyond 2^53.

use std::io::Write as _;

use broker_core::event::write_json_string;
use bson::raw::{RawBsonRef, RawDocument, RawElement};

/// The end of the year 9999, in milliseconds since 1970: the last that is written as a text.
const LAST_DATE_MS: i64 = 253_402_300_799_999;

/// Why a value cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// It is nested deeper than was asked for.
    #[error("it is nested too deep")]
    TooDeep,
    /// It is longer than was asked for.
    #[error("it is too long")]
    TooLong,
    /// It is not valid BSON.
    #[error("it is not valid BSON")]
    Malformed,
}

/// How deep and how long a text may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Arrays and objects within one another.
    pub depth: usize,
    /// Bytes, give or take a scalar value.
    pub bytes: usize,
}

/// Appends an element's value to `out`. Bytes of a string that are not UTF-8 become U+FFFD: MongoDB stores them, JSON cannot.
///
/// # Errors
/// [`NotWritten`]; `out` holds a part of it then.
pub fn write_element(out: &mut Vec<u8>, element: &RawElement<'_>, limits: Limits) -> Result<(), NotWritten> {
    if out.len() > limits.bytes {
        return Err(NotWritten::TooLong);
    }
    match element.value() {
        Ok(value) => write_value(out, value, limits),
        Err(_) => {
            let value = element.value_utf8_lossy().map_err(|_| NotWritten::Malformed)?;
            write_value(out, value.as_raw_bson_ref(), limits)
        }
    }
}

/// Appends a document to `out`.
///
/// # Errors
/// As [`write_element`].
pub fn write_document(out: &mut Vec<u8>, document: &RawDocument, limits: Limits) -> Result<(), NotWritten> {
    let limits = deeper(limits)?;
    out.push(b'{');
    for (index, element) in document.iter_elements().enumerate() {
        let element = element.map_err(|_| NotWritten::Malformed)?;
        if index > 0 {
            out.push(b',');
        }
        write_json_string(out, element.key().as_str());
        out.push(b':');
        write_element(out, &element, limits)?;
    }
    out.push(b'}');
    Ok(())
}

fn deeper(limits: Limits) -> Result<Limits, NotWritten> {
    let depth = limits.depth.checked_sub(1).ok_or(NotWritten::TooDeep)?;
    Ok(Limits { depth, ..limits })
}

fn write_value(out: &mut Vec<u8>, value: RawBsonRef<'_>, limits: Limits) -> Result<(), NotWritten> {
    // Writing into a vector does not fail.
    let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).map_err(|_| NotWritten::Malformed);
    match value {
        RawBsonRef::Document(document) => write_document(out, document, limits),
        RawBsonRef::Array(array) => {
            let limits = deeper(limits)?;
            out.push(b'[');
            // An array is a document whose keys are not looked at.
            let items = RawDocument::from_bytes(array.as_bytes()).map_err(|_| NotWritten::Malformed)?;
            for (index, element) in items.iter_elements().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_element(out, &element.map_err(|_| NotWritten::Malformed)?, limits)?;
            }
            out.push(b']');
            Ok(())
        }
        RawBsonRef::String(text) => {
            write_json_string(out, text);
            Ok(())
        }
        RawBsonRef::Boolean(value) => put(format_args!("{value}")),
        RawBsonRef::Null => put(format_args!("null")),
        RawBsonRef::Int32(number) => put(format_args!("{number}")),
        RawBsonRef::Int64(number) => put(format_args!("{number}")),
        // `{:?}` keeps the point of a whole number and gives the shortest digits that read back the same.
        RawBsonRef::Double(number) if number.is_finite() => put(format_args!("{number:?}")),
        RawBsonRef::ObjectId(id) => put(format_args!("{{\"$oid\":\"{}\"}}", id.to_hex())),
        RawBsonRef::Timestamp(at) => {
            put(format_args!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", at.time, at.increment))
        }
        RawBsonRef::Decimal128(number) => put(format_args!("{{\"$numberDecimal\":\"{number}\"}}")),
        // A year of more than four digits has no text; the crate would make one of another date (bson 3.1).
        RawBsonRef::DateTime(date) if !(0..=LAST_DATE_MS).contains(&date.timestamp_millis()) => {
            put(format_args!("{{\"$date\":{{\"$numberLong\":\"{}\"}}}}", date.timestamp_millis()))
        }
        // The rest is rare, and the crate knows its forms.
        rare => {
            let _nothing_deeper = deeper(limits)?;
            let nested = match &rare {
                RawBsonRef::JavaScriptCodeWithScope(code) => Some(code),
                _ => None,
            };
            if let Some(code) = nested {
                out.extend_from_slice(b"{\"$code\":");
                write_json_string(out, code.code);
                out.extend_from_slice(b",\"$scope\":");
                write_document(out, code.scope, deeper(limits)?)?;
                out.push(b'}');
                return Ok(());
            }
            let value = bson::Bson::try_from(rare).map_err(|_| NotWritten::Malformed)?;
            serde_json::to_writer(out, &value.into_relaxed_extjson()).map_err(|_| NotWritten::Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::spec::BinarySubtype;
    use bson::{
        Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc,
    };
    use proptest::prelude::*;

    use super::*;

    const ALL: Limits = Limits { depth: 127, bytes: 1 << 20 };

    fn json(document: &Document) -> String {
        let raw = RawDocumentBuf::try_from(document).unwrap();
        let mut out = Vec::new();
        write_document(&mut out, &raw, ALL).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn all_types() -> Document {
        doc! {
            "z": 1.0, "tenth": 0.1, "big": 1e300, "nan": f64::NAN, "inf": f64::NEG_INFINITY,
            "text": "\u{1}\"é\u{2028}", "doc": { "b": 1, "a": { } }, "list": [1, [], "x"],
            "bin": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] },
            "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] },
            "undefined": Bson::Undefined, "oid": bson::oid::ObjectId::from_bytes([1; 12]), "yes": true,
            "date": DateTime::from_millis(1_700_000_000_123), "old": DateTime::from_millis(-1), "far": DateTime::from_millis(i64::MAX),
            "null": Bson::Null, "regex": Bson::RegularExpression(Regex { pattern: "^a\"".try_into().unwrap(), options: "i".try_into().unwrap() }),
            "code": Bson::JavaScriptCode("f()".to_owned()),
            "scoped": Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "g()".to_owned(), scope: doc! { "n": 1 } }),
            "symbol": Bson::Symbol("s".to_owned()), "int": i32::MIN, "long": i64::MAX,
            "ts": Timestamp { time: 5, increment: 6 }, "dec": "1.5E+10".parse::<Decimal128>().unwrap(),
            "min": Bson::MinKey, "max": Bson::MaxKey,
        }
    }

    #[test]
    fn every_type_is_written_as_the_specification_has_it_in_the_order_of_the_fields() {
        assert_eq!(
            json(&all_types()),
            concat!(
                r#"{"z":1.0,"tenth":0.1,"big":1e300,"nan":{"$numberDouble":"NaN"},"inf":{"$numberDouble":"-Infinity"},"#,
                "\"text\":\"\\u0001\\\"é\u{2028}\",",
                r#""doc":{"b":1,"a":{}},"list":[1,[],"x"],"bin":{"$binary":{"base64":"AP8=","subType":"00"}},"#,
                r#""uuid":{"$binary":{"base64":"BwcHBwcHBwcHBwcHBwcHBw==","subType":"04"}},"undefined":{"$undefined":true},"#,
                r#""oid":{"$oid":"010101010101010101010101"},"yes":true,"date":{"$date":"2023-11-14T22:13:20.123Z"},"#,
                r#""old":{"$date":{"$numberLong":"-1"}},"far":{"$date":{"$numberLong":"9223372036854775807"}},"null":null,"#,
                r#""regex":{"$regularExpression":{"options":"i","pattern":"^a\""}},"code":{"$code":"f()"},"#,
                r#""scoped":{"$code":"g()","$scope":{"n":1}},"symbol":{"$symbol":"s"},"int":-2147483648,"#,
                r#""long":9223372036854775807,"ts":{"$timestamp":{"t":5,"i":6}},"dec":{"$numberDecimal":"1.5E+10"},"#,
                r#""min":{"$minKey":1},"max":{"$maxKey":1}}"#
            )
        );
    }

    #[test]
    fn what_was_written_reads_back_as_the_same_document() {
        let mut document = all_types();
        // A NaN is not equal to itself.
        document.remove("nan");
        let value: serde_json::Value = serde_json::from_str(&json(&document)).unwrap();
        let back = Bson::try_from(value).unwrap();
        for (key, value) in &document {
            assert_eq!(back.as_document().unwrap().get(key).map(normal), Some(normal(value)), "{key}");
        }
    }

    /// Relaxed JSON does not say how wide an integer is.
    fn normal(value: &Bson) -> Bson {
        match value {
            Bson::Int32(number) => Bson::Int64(i64::from(*number)),
            Bson::Array(items) => Bson::Array(items.iter().map(normal).collect()),
            Bson::Document(document) => Bson::Document(document.iter().map(|(k, v)| (k.clone(), normal(v))).collect()),
            Bson::JavaScriptCodeWithScope(code) => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: code.code.clone(),
                scope: code.scope.iter().map(|(k, v)| (k.clone(), normal(v))).collect(),
            }),
            other => other.clone(),
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let mut nested = doc! { "x": 1 };
        for _ in 0..126 {
            nested = doc! { "x": nested };
        }
        let raw = RawDocumentBuf::try_from(&nested).unwrap();
        assert_eq!(write_document(&mut Vec::new(), &raw, ALL), Ok(()));
        let raw = RawDocumentBuf::try_from(&doc! { "x": nested }).unwrap();
        assert_eq!(write_document(&mut Vec::new(), &raw, ALL), Err(NotWritten::TooDeep));
        let raw = RawDocumentBuf::try_from(&doc! { "a": "x".repeat(100), "b": 1 }).unwrap();
        let short = Limits { depth: 9, bytes: 50 };
        assert_eq!(write_document(&mut Vec::new(), &raw, short), Err(NotWritten::TooLong));
    }

    #[test]
    fn a_string_that_is_not_utf_8_is_published_with_replacement_characters() {
        let mut bytes = RawDocumentBuf::try_from(&doc! { "s": "ab", "n": 1 }).unwrap().into_bytes();
        let at = bytes.windows(2).position(|pair| pair == b"ab").unwrap();
        bytes[at] = 0xff;
        let raw = RawDocumentBuf::from_bytes(bytes).unwrap();
        let mut out = Vec::new();
        write_document(&mut out, &raw, ALL).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"s\":\"\u{fffd}b\",\"n\":1}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_written_as_valid_json_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut whole = u32::try_from(bytes.len() + 5).unwrap().to_le_bytes().to_vec();
            whole.extend(&bytes);
            whole.push(0);
            if let Ok(raw) = RawDocumentBuf::from_bytes(whole) {
                let mut out = Vec::new();
                if write_document(&mut out, &raw, ALL).is_ok() {
                    prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok());
                }
            }
        }
    }
}
