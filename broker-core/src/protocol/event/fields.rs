//! The known keys of an event, and the full parser: it accepts all of JSON, and words its errors.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_DEPTH, is_nested_deeper};

/// Words the parser's error without "at line 1": an event is always one line.
fn describe(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// The values of an event's known keys, as JSON text.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fields<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) priority: Option<&'a str>,
    pub(super) msg: Option<&'a str>,
    pub(super) ttl_ms: Option<&'a str>,
    pub(super) delay_ms: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// The slot for the value of `key`; `None` if the key is unknown.
    pub(super) fn of(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
        Some(match key {
            "id" => &mut self.id,
            "priority" => &mut self.priority,
            "msg" => &mut self.msg,
            "ttl_ms" => &mut self.ttl_ms,
            "delay_ms" => &mut self.delay_ms,
            _ => return None,
        })
    }

    /// Treats null as missing. Only after parsing, so that a key given twice as null is still reported.
    pub(super) fn without_nulls(self) -> Self {
        let given = |field: Option<&'a str>| field.filter(|text| *text != "null");
        Self {
            id: given(self.id),
            priority: given(self.priority),
            ttl_ms: given(self.ttl_ms),
            delay_ms: given(self.delay_ms),
            msg: self.msg,
        }
    }
}

/// Parses `json` in full.
///
/// # Errors
/// A text that says what is wrong with it.
pub(super) fn parse(json: &str) -> Result<Fields<'_>, String> {
    let fields = serde_json::from_str(json).map_err(|error| describe(&error))?;
    // The parser skips unknown values without recursion, so it has no limit of its own for them.
    if is_nested_deeper(json, MAX_DEPTH) {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(fields)
}

impl<'de> serde::Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"an object such as {"id":"1","priority":0,"msg":"any JSON value"}"#)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key_seed(KeyName)? {
                    let Some(field) = fields.of(&key) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if field.is_some() {
                        return Err(A::Error::custom(format_args!("key \"{key}\" given twice")));
                    }
                    *field = Some(map.next_value::<&RawValue>()?.get());
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A key, with its escapes resolved.
struct KeyName;

impl<'de> DeserializeSeed<'de> for KeyName {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        // Raw, because a key with a lone surrogate is valid JSON but not a string. It counts as an unknown key.
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        Ok(if raw.contains('\\') {
            serde_json::from_str(raw).map_or(Cow::Borrowed(""), Cow::Owned)
        } else {
            Cow::Borrowed(raw.trim_matches('"'))
        })
    }
}
