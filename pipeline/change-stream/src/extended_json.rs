//! Writes raw BSON as relaxed Extended JSON (MongoDB Extended JSON v2). Fields keep their order, and no tree is built.
//!
//! The relaxed form gives consumers numbers as numbers and dates as text. A value for which JSON has no type (an infinity, a timestamp,
//! binary data) becomes an object whose key begins with `$` and can be read back. A 64-bit integer is a JSON number: a reader that
//! parses numbers as doubles loses digits beyond 2^53.

use std::borrow::Cow;
use std::io::Write as _;

use broker_core::event::write_json_string;
use bson::raw::{RawArray, RawBsonRef, RawDocument, RawElement};

use super::number;
use super::raw::{Field, fields};

/// The end of the year 9999 in milliseconds since 1970, the last date that is written as text.
const LAST_DATE_MS: i64 = 253_402_300_799_999;

/// The reason that a value cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// It is nested deeper than the limit.
    #[error("it is nested too deep")]
    TooDeep,
    /// It is longer than the limit.
    #[error("it is too long")]
    TooLong,
    /// It is not valid BSON.
    #[error("it is not valid BSON")]
    Malformed,
}

/// The limits of a text.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The deepest nesting of arrays and objects.
    pub depth: usize,
    /// The length in bytes; one scalar value may exceed it.
    pub bytes: usize,
}

/// Appends an element's value to `out`. Invalid UTF-8, which MongoDB stores and JSON cannot express, becomes U+FFFD.
///
/// # Errors
/// [`NotWritten`]; `out` then holds a part of the value.
pub fn write_element(out: &mut Vec<u8>, element: &RawElement<'_>, limits: Limits) -> Result<(), NotWritten> {
    let field = Field { element: element.clone(), bytes: &[] };
    Writer { out, bytes: limits.bytes, form: Form::AsStored }.field(&field, limits.depth)
}

/// Appends a document to `out`.
///
/// # Errors
/// As [`write_element`].
pub fn write_document(out: &mut Vec<u8>, document: &RawDocument, limits: Limits) -> Result<(), NotWritten> {
    Writer { out, bytes: limits.bytes, form: Form::AsStored }.document(document, limits.depth)
}

/// Appends a canonical text: values have the same text exactly if MongoDB considers them equal (as numbers of different types can
/// be). Strings that are not UTF-8 are written as hexadecimal bytes, to keep them distinct.
///
/// # Errors
/// As [`write_element`].
pub(super) fn write_identity(out: &mut Vec<u8>, field: &Field<'_>, limits: Limits) -> Result<(), NotWritten> {
    Writer { out, bytes: limits.bytes, form: Form::Identity }.field(field, limits.depth)
}

/// The purpose of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// For consumers: the value as it is stored.
    AsStored,
    /// For comparison: see [`write_identity`].
    Identity,
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// See [`Limits::bytes`].
    bytes: usize,
    form: Form,
}

impl Writer<'_> {
    fn put(&mut self, text: std::fmt::Arguments<'_>) -> Result<(), NotWritten> {
        // Writing into a vector does not fail.
        self.out.write_fmt(text).map_err(|_| NotWritten::Malformed)
    }

    fn field(&mut self, field: &Field<'_>, depth: usize) -> Result<(), NotWritten> {
        if self.out.len() > self.bytes {
            return Err(NotWritten::TooLong);
        }
        match field.element.value() {
            Ok(value) => self.value(value, depth),
            Err(_) if self.form == Form::Identity => {
                self.put(format_args!("{{\"$notUtf8\":\""))?;
                for byte in field.bytes {
                    self.put(format_args!("{byte:02x}"))?;
                }
                self.put(format_args!("\"}}"))
            }
            Err(_) => {
                let value = field.element.value_utf8_lossy().map_err(|_| NotWritten::Malformed)?;
                self.value(value.as_raw_bson_ref(), depth)
            }
        }
    }

    fn document(&mut self, document: &RawDocument, depth: usize) -> Result<(), NotWritten> {
        let depth = deeper(depth)?;
        self.out.push(b'{');
        for (index, field) in fields(document).enumerate() {
            let field = field.map_err(|_| NotWritten::Malformed)?;
            if index > 0 {
                self.out.push(b',');
            }
            write_json_string(self.out, field.element.key().as_str());
            self.out.push(b':');
            self.field(&field, depth)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn array(&mut self, array: &RawArray, depth: usize) -> Result<(), NotWritten> {
        let depth = deeper(depth)?;
        self.out.push(b'[');
        // In BSON an array is a document whose keys are ignored.
        let items = RawDocument::from_bytes(array.as_bytes()).map_err(|_| NotWritten::Malformed)?;
        for (index, field) in fields(items).enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.field(&field.map_err(|_| NotWritten::Malformed)?, depth)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn value(&mut self, value: RawBsonRef<'_>, depth: usize) -> Result<(), NotWritten> {
        let identity = self.form == Form::Identity;
        match value {
            RawBsonRef::Document(document) => return self.document(document, depth),
            RawBsonRef::Array(array) => return self.array(array, depth),
            RawBsonRef::String(text) => write_json_string(self.out, text),
            RawBsonRef::Symbol(text) if identity => write_json_string(self.out, text),
            RawBsonRef::Double(number) if identity => number::write_double(self.out, number),
            RawBsonRef::Decimal128(number) if identity => number::write_decimal(self.out, number),
            RawBsonRef::Boolean(value) => self.put(format_args!("{value}"))?,
            RawBsonRef::Null => self.put(format_args!("null"))?,
            RawBsonRef::Int32(number) => self.put(format_args!("{number}"))?,
            RawBsonRef::Int64(number) => self.put(format_args!("{number}"))?,
            // `{:?}` keeps the point of a whole number and gives the shortest digits that read back the same.
            RawBsonRef::Double(number) if number.is_finite() => self.put(format_args!("{number:?}"))?,
            // The crate (bson 3.1) writes the sign of a NaN, for which the specification has no form.
            RawBsonRef::Double(number) => {
                self.put(format_args!("{{\"$numberDouble\":\"{}\"}}", number::not_finite(number)))?;
            }
            RawBsonRef::ObjectId(id) => self.put(format_args!("{{\"$oid\":\"{}\"}}", id.to_hex()))?,
            RawBsonRef::Timestamp(at) => {
                self.put(format_args!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", at.time, at.increment))?;
            }
            RawBsonRef::Decimal128(number) => self.put(format_args!("{{\"$numberDecimal\":\"{number}\"}}"))?,
            // Years beyond 9999 have no text form; the crate (bson 3.1) would write a different date.
            RawBsonRef::DateTime(date) if !(0..=LAST_DATE_MS).contains(&date.timestamp_millis()) => {
                self.put(format_args!("{{\"$date\":{{\"$numberLong\":\"{}\"}}}}", date.timestamp_millis()))?;
            }
            RawBsonRef::DateTime(date) => {
                let text = date.try_to_rfc3339_string().map_err(|_| NotWritten::Malformed)?;
                self.put(format_args!("{{\"$date\":\"{}\"}}", in_milliseconds(&text)))?;
            }
            RawBsonRef::JavaScriptCodeWithScope(code) => {
                let depth = deeper(depth)?;
                self.out.extend_from_slice(b"{\"$code\":");
                write_json_string(self.out, code.code);
                self.out.extend_from_slice(b",\"$scope\":");
                self.document(code.scope, depth)?;
                self.out.push(b'}');
            }
            // The remaining types are rare; the crate writes them correctly.
            rare => {
                deeper(depth)?;
                let value = bson::Bson::try_from(rare).map_err(|_| NotWritten::Malformed)?;
                serde_json::to_writer(&mut *self.out, &value.into_relaxed_extjson())
                    .map_err(|_| NotWritten::Malformed)?;
            }
        }
        Ok(())
    }
}

/// Pads fractions of a second to three digits, as the specification requires; the crate (bson 3.1) leaves out trailing zeros.
fn in_milliseconds(time: &str) -> Cow<'_, str> {
    let Some((seconds, part)) = time.strip_suffix('Z').and_then(|time| time.split_once('.')) else {
        return Cow::Borrowed(time);
    };
    Cow::Owned(format!("{seconds}.{part:0<3}Z"))
}

fn deeper(depth: usize) -> Result<usize, NotWritten> {
    depth.checked_sub(1).ok_or(NotWritten::TooDeep)
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
    fn every_type_is_written_by_the_specification_in_field_order() {
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
    fn non_finite_numbers_have_one_of_three_names() {
        let nan = |bits| f64::from_bits(bits);
        for (number, name) in [
            (f64::NAN, "NaN"),
            (-f64::NAN, "NaN"),
            (nan(0xfff8_0000_0000_0000), "NaN"),
            (nan(0x7ff0_0000_0000_0001), "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            let expected =
                format!("{{\"d\":{{\"$numberDouble\":\"{name}\"}},\"in\":[{{\"$numberDouble\":\"{name}\"}}]}}");
            assert_eq!(json(&doc! { "d": number, "in": [number] }), expected);
        }
    }

    #[test]
    fn dates_have_three_digits_of_milliseconds_or_none() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (20, "1970-01-01T00:00:00.020Z"),
            (500, "1970-01-01T00:00:00.500Z"),
            (1_700_000_000_120, "2023-11-14T22:13:20.120Z"),
            (LAST_DATE_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            let date = DateTime::from_millis(millis);
            let scope = JavaScriptCodeWithScope { code: String::new(), scope: doc! { "d": date } };
            let written = json(&doc! { "d": date, "in": [date], "s": Bson::JavaScriptCodeWithScope(scope) });
            assert_eq!(written.matches(&format!("{{\"$date\":\"{text}\"}}")).count(), 3, "{written}");
        }
    }

    #[test]
    fn written_documents_read_back_the_same() {
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
