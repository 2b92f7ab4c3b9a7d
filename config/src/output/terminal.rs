//! Control characters that a publisher must not send to a terminal: they move its cursor, set its title, or reverse the order of
//! text.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Replaces each control character of `text` but line breaks and tabs by the six characters of its JSON escape, so that a line of
/// JSON keeps its meaning.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_all(text, |c| matches!(c, '\n' | '\t'))
}

/// The same, but keeps the characters for which `keep` is true.
pub(crate) fn escape_all(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_control(c) && !keep(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_control(c) && !keep(c) {
            // Writing to a string cannot fail.
            let _infallible = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// C0, DEL and C1; the marks, embeddings, overrides and isolates of bidirectional text; the two line separators.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_and_bidirectional_override_is_escaped() {
        let all =
            (0..0x20).chain(0x7f..0xa0).chain([0x61c, 0x200e, 0x200f]).chain(0x2028..=0x202e).chain(0x2066..=0x2069);
        for c in all.filter_map(char::from_u32).filter(|c| !matches!(c, '\n' | '\t')) {
            assert_eq!(escape(&format!("a{c}b")), format!("a\\u{:04x}b", u32::from(c)));
        }
    }

    #[test]
    fn all_else_is_left_as_it_is() {
        let text = "{\"msg\":\"é 漢 👩‍🚀 עברית\\u001b\"}\n\ta";
        assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn an_escaped_line_is_json_of_the_same_meaning() {
        let line = "{\"msg\":\"\u{7f}\u{9b}31m\u{202e}\"}";
        let (before, after): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(line).unwrap(), serde_json::from_str(&escape(line)).unwrap());
        assert_eq!(before, after);
    }
}
