//! Writes JSON by hand. A tweet has some eighty fields, and building a tree of values would cost ten times as much as the rest of the
//! generator.

/// Appends `text` as a JSON string, quoted and escaped.
pub(super) fn push_str(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        // Everything that JSON escapes is ASCII, so cutting there never splits a character.
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            // No table contains other control characters; a blank keeps the JSON valid if one ever does.
            0..=0x1f => " ",
            _ => continue,
        };
        out.push_str(&text[plain..at]);
        out.push_str(escape);
        plain = at + 1;
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// Appends a number in decimal digits.
pub(super) fn push_u64(out: &mut String, mut n: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

/// Appends `,"name":n`.
pub(super) fn field_u64(out: &mut String, name: &str, n: u64) {
    key(out, name);
    push_u64(out, n);
}

/// Appends `,"name":true` or `,"name":false`.
pub(super) fn field_bool(out: &mut String, name: &str, value: bool) {
    key(out, name);
    out.push_str(if value { "true" } else { "false" });
}

fn key(out: &mut String, name: &str) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_survive_the_round_trip() {
        for text in ["", "plain", "a \"quote\" \\ back", "line\nline\r\n\ttab", "日本語 😂 🤷‍♀️", "\\", "\""]
        {
            let mut out = String::new();
            push_str(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
        let mut out = String::new();
        push_str(&mut out, "a\u{1}b");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a b");
    }

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 10, 1_234_567_890, u64::MAX] {
            let mut out = String::new();
            push_u64(&mut out, n);
            assert_eq!(out, n.to_string());
        }
    }
}
