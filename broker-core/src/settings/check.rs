//! Checks a value against its key, and words the message if it does not fit.

use std::net::Ipv6Addr;

use serde_json::Value;

use super::key::{Key, Secret, Shape};
use super::text::{nearest, one_of, quoted};

/// The longest string that a message quotes, in characters.
const MAX_QUOTED: usize = 60;

impl Key {
    /// Checks type and range. The keys within a [`Shape::Table`] or [`Shape::List`] are not checked.
    ///
    /// # Errors
    /// A message with the expected and the found value, and the word that was probably meant. It never quotes a secret.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match (&self.shape, value) {
            (Shape::Bool, Value::Bool(_))
            | (Shape::Text | Shape::TextOrTexts, Value::String(_))
            | (Shape::Table(_), Value::Object(_))
            | (Shape::List(_), Value::Array(_)) => true,
            (Shape::Path(what), Value::String(path)) if path.is_empty() => {
                return Err(format!("the path is empty: expected a {what}"));
            }
            (Shape::Path(_), Value::String(_)) => true,
            (Shape::Address, Value::String(address)) => {
                return check_address(address)
                    .map_err(|why| format!("{why}: expected host:port, such as 127.0.0.1:8000 or [::1]:8000"));
            }
            (Shape::Word(words), Value::String(word)) => words.contains(&word.as_str()),
            (Shape::Int(least, most), Value::Number(_)) => {
                value.as_i64().is_some_and(|number| (*least..=*most).contains(&number))
            }
            (Shape::Texts, Value::Array(items)) => items.iter().all(Value::is_string),
            (Shape::TextOrTexts, Value::Array(items)) => !items.is_empty() && items.iter().all(Value::is_string),
            (Shape::TextMap, Value::Object(items)) => items.values().all(Value::is_string),
            (Shape::Range(most), Value::Array(items)) => match pair(items) {
                Some((low, high)) if 0 <= low && low <= high && high > *most => {
                    return Err(format!("expected at most {most}, found {high}"));
                }
                ends => ends.is_some_and(|(low, high)| 0 <= low && low <= high),
            },
            (Shape::Priority, value) => is_priority(value),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let mut text = format!("{}, found {}", self.shape.expected(), self.found(value));
        if let (Shape::Word(words), Some(word)) = (&self.shape, value.as_str())
            && let Some(near) = nearest(word, words.iter().copied())
        {
            text.push_str(&format!("; did you mean {}?", quoted(near)));
        }
        Err(text)
    }

    /// A description of `value` for a message: the value itself, or its type if the key is secret.
    #[must_use]
    pub fn found(&self, value: &Value) -> String {
        if self.secret == Secret::No { found(value) } else { type_of(value).to_owned() }
    }
}

impl Shape {
    /// The expected value in a message: `expected …`.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "expected true or false".to_owned(),
            Self::Int(least, most) => format!("expected an integer from {least} to {most}"),
            Self::Text | Self::Path(_) | Self::Address => "expected a string".to_owned(),
            Self::Word(words) => format!("expected {}", one_of(words.iter().copied())),
            Self::Texts => "expected a list of strings".to_owned(),
            Self::TextOrTexts => "expected a string or a list of strings".to_owned(),
            Self::Range(_) => "expected two integers, the smaller first, such as [50, 500]".to_owned(),
            Self::TextMap => "expected a table of strings".to_owned(),
            Self::Priority => {
                "expected an integer of 32 bits, a JSON pointer such as \"/priority\", or { random = [lo, hi] }"
                    .to_owned()
            }
            Self::Table(_) => "expected a table".to_owned(),
            Self::List(_) => "expected a list of tables".to_owned(),
        }
    }
}

/// Whether `address` is `host:port`. The name of a host is resolved only when it is bound.
///
/// # Errors
/// The part that is wrong.
pub fn check_address(address: &str) -> Result<(), String> {
    let Some((host, port)) = address.rsplit_once(':') else { return Err(format!("{} has no port", quoted(address))) };
    if port.parse::<u16>().is_err() {
        return Err(format!("{} is no port", quoted(port)));
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    if valid { Ok(()) } else { Err(format!("{} is no host", quoted(host))) }
}

/// A value as a message shows it.
#[must_use]
pub fn found(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > MAX_QUOTED => {
            let cut: String = text.chars().take(MAX_QUOTED).collect();
            format!("the string {}…", quoted(&cut))
        }
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.to_string(),
            (None, Some(float)) => format!("the number {float:?}"),
            (None, None) => "a number that is too large".to_owned(),
        },
        other => type_of(other).to_owned(),
    }
}

/// The type of a value as a message names it.
#[must_use]
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        // TOML has no null; a float that is not finite becomes one in JSON.
        Value::Null => "a number that is not finite",
        Value::Object(_) => "a table",
        Value::Array(_) => "a list",
    }
}

fn pair(items: &[Value]) -> Option<(i64, i64)> {
    match items {
        [low, high] => Some((low.as_i64()?, high.as_i64()?)),
        _ => None,
    }
}

fn is_priority(value: &Value) -> bool {
    let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
    match value {
        Value::Number(_) => value.as_i64().is_some_and(|number| range.contains(&number)),
        Value::String(pointer) => pointer.starts_with('/'),
        Value::Object(random) => match (random.len(), random.get("random")) {
            (1, Some(Value::Array(ends))) => {
                pair(ends).is_some_and(|(low, high)| low <= high && range.contains(&low) && range.contains(&high))
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::Preset;

    fn message(shape: Shape, value: &Value) -> String {
        Key::required("key", shape, "A key.").check(value).expect_err("it does not fit")
    }

    #[test]
    fn a_message_names_the_expected_the_found_and_the_probable_value() {
        for (shape, value, expected) in [
            (Shape::Int(0, 9), json!("4"), "expected an integer from 0 to 9, found the string \"4\""),
            (Shape::Int(0, 9), json!(1.0), "expected an integer from 0 to 9, found the number 1.0"),
            (Shape::Int(0, 9), json!(10), "expected an integer from 0 to 9, found 10"),
            (Shape::Bool, json!({}), "expected true or false, found a table"),
            (
                Shape::Word(&["always", "never"]),
                json!("nevr"),
                "expected \"always\" or \"never\", found the string \"nevr\"; did you mean \"never\"?",
            ),
            (Shape::Path("directory"), json!(""), "the path is empty: expected a directory"),
            (Shape::Range(9), json!([1, 10]), "expected at most 9, found 10"),
            (
                Shape::Range(9),
                json!([5, 1]),
                "expected two integers, the smaller first, such as [50, 500], found a list",
            ),
            (Shape::TextOrTexts, json!([]), "expected a string or a list of strings, found a list"),
        ] {
            assert_eq!(message(shape, &value), expected);
        }
    }

    #[test]
    fn a_secret_is_not_quoted() {
        let key = Key::with_default("key", Shape::Bool, Preset::Bool(true), "A key.").secret(Secret::Whole);
        assert_eq!(key.check(&json!("s3cret")).unwrap_err(), "expected true or false, found a string");
    }

    #[test]
    fn a_priority_is_an_integer_a_pointer_or_a_range() {
        let key = Key::required("priority", Shape::Priority, "A priority.");
        for good in [json!(-3), json!("/a"), json!({ "random": [0, 6] })] {
            assert!(key.check(&good).is_ok(), "{good}");
        }
        for bad in [json!("a"), json!(1_i64 << 40), json!({ "random": [6, 0] }), json!({ "random": [0, 6], "x": 1 })] {
            assert!(key.check(&bad).is_err(), "{bad}");
        }
    }
}
