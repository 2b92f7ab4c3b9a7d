//! Dotted keys: `topics."tweets.*".max_waiting`, `sources[0].url`.

use std::fmt::Write as _;

/// `name` below `path`, quoted where TOML wants it.
pub(crate) fn below(path: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let mut key = path.to_owned();
    if !key.is_empty() {
        key.push('.');
    }
    if bare {
        key.push_str(name);
    } else {
        key.push_str(&quoted(name));
    }
    key
}

/// Entry `index` of the list at `path`.
pub(crate) fn entry(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// `text` as a basic string of TOML.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_quoted_where_toml_wants_it() {
        assert_eq!(below("", "storage"), "storage");
        assert_eq!(below("topics", "tweets.*"), "topics.\"tweets.*\"");
        assert_eq!(below(&entry("sources", 1), "url"), "sources[1].url");
        assert_eq!(quoted("a\"\\\n\u{1}é"), "\"a\\\"\\\\\\n\\u0001é\"");
    }
}
