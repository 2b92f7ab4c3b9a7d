//! JSON pointers (RFC 6901) into JSON text. The value is returned as a slice of the text; no tree is built.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A pointer: empty for the whole value, else `/` and a name or an index for each level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// The error for a text that is not a pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a JSON pointer: it is empty or begins with \"/\"; within a name \"~\" is written \"~0\" and \"/\" is written \"~1\""
)]
pub struct PointerError(String);

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// If it is neither empty nor begins with `/`, or has a `~` that is not followed by 0 or 1.
    pub fn new(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let invalid = || PointerError(text.to_owned());
        let names = text.strip_prefix('/').ok_or_else(invalid)?.split('/').map(|name| {
            let escapes = name.matches('~').count();
            let valid = name.matches("~0").count() + name.matches("~1").count();
            (escapes == valid).then(|| name.replace("~1", "/").replace("~0", "~")).ok_or_else(invalid)
        });
        names.collect::<Result<_, _>>().map(Self)
    }

    /// The names and indices, one per level.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The pointer with these names and indices.
    #[must_use]
    pub fn of(names: &[String]) -> Self {
        Self(names.to_vec())
    }

    /// The value at the pointer in `json`, or `None`. Of duplicate names in an object the last counts, as in most parsers.
    #[must_use]
    pub fn find<'a>(&self, json: &'a RawValue) -> Option<&'a RawValue> {
        let mut at = json;
        for name in &self.0 {
            let mut deserializer = serde_json::Deserializer::from_str(at.get());
            at = Step(name).deserialize(&mut deserializer).ok()??;
        }
        Some(at)
    }
}

/// As it is written in a configuration.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "/{}", name.replace('~', "~0").replace('/', "~1")))
    }
}

/// One level of a pointer, as a deserializer that skips everything else.
struct Step<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(IsName(self.0))? {
            if is_it {
                found = Some(map.next_value::<&RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        // An index has no leading zeros (RFC 6901, section 4).
        let index = self.0.parse::<usize>().ok().filter(|index| index.to_string() == self.0);
        let mut found = None;
        let mut at = 0;
        while let Some(value) = seq.next_element::<&RawValue>()? {
            if Some(at) == index {
                found = Some(value);
            }
            at += 1;
        }
        Ok(found)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Compares an object's key with the wanted name, whichever way the key is escaped.
struct IsName<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_and_what_is_not_there() {
        let json = r#"{"foo": ["bar", [ 1 ,2 ]], "": 0, "a/b": 1, "m~n": 8, "\u0061": "late", "deep": {"x": {"y": null}}, "n": 1e3}"#;
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        for (pointer, expected) in [
            ("", Some(json)),
            ("/foo/0", Some("\"bar\"")),
            ("/foo/1", Some("[ 1 ,2 ]")),
            ("/foo/1/1", Some("2")),
            ("/foo/01", None),
            ("/foo/-", None),
            ("/foo/2", None),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/m~0n", Some("8")),
            ("/a", Some("\"late\"")),
            ("/deep/x/y", Some("null")),
            ("/deep/x/z", None),
            ("/deep/x/y/z", None),
            ("/n/x", None),
            ("/foo/0/x", None),
        ] {
            let found = Pointer::new(pointer).unwrap().find(raw).map(RawValue::get);
            assert_eq!(found, expected, "{pointer}");
        }
        for bad in ["a", "a/b", "/~", "/~2", "/a~"] {
            assert!(Pointer::new(bad).is_err(), "{bad}");
        }
    }
}
