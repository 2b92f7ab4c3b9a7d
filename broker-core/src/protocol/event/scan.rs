//! The quick way through an event's JSON: one pass over the bytes that validates all of it and finds the known keys.
//!
//! It takes what nearly every event is, and nothing that it is not sure of: an escaped key, a key given twice and whatever is wrong is left
//! to [`serde_json`], which knows the words for it. So an event is accepted, or refused with a reason, as if there were only that.

use super::{Fields, MAX_DEPTH};

/// The fields of the object that `json` is; `None`: ask the slow way.
pub(super) fn fields(json: &str) -> Option<Fields<'_>> {
    let mut scanner = Scanner { json, at: 0 };
    let mut fields = Fields::default();
    scanner.blanks();
    scanner.expect(b'{')?;
    scanner.blanks();
    if scanner.peek() == Some(b'}') {
        scanner.at += 1;
    } else {
        loop {
            let key = scanner.key()?;
            scanner.blanks();
            scanner.expect(b':')?;
            scanner.blanks();
            let start = scanner.at;
            scanner.value()?;
            let value = &json[start..scanner.at];
            if let Some(field) = fields.of(key)
                && field.replace(value).is_some()
            {
                return None;
            }
            scanner.blanks();
            match scanner.next()? {
                b',' => scanner.blanks(),
                b'}' => break,
                _ => return None,
            }
        }
    }
    scanner.blanks();
    (scanner.at == json.len()).then_some(fields)
}

struct Scanner<'a> {
    json: &'a str,
    at: usize,
}

/// The arrays and objects around a value: a bit for each level that is open, the innermost one the lowest.
struct Nesting {
    /// 1: an object.
    objects: u128,
    depth: usize,
}

impl Nesting {
    fn enter(&mut self, is_object: bool) -> Option<()> {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        // The event's own object is one more.
        (self.depth < MAX_DEPTH).then_some(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn is_in_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.json.as_bytes()[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// A key without escapes, its quotes left out.
    fn key(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        let escaped = self.string()?;
        (!escaped).then(|| &self.json[start..self.at - 1])
    }

    /// Any value.
    fn value(&mut self) -> Option<()> {
        let mut nesting = Nesting { objects: 0, depth: 0 };
        loop {
            // A value begins here.
            match self.next()? {
                b'"' => {
                    self.string()?;
                }
                b'{' => {
                    nesting.enter(true)?;
                    self.blanks();
                    if self.peek() != Some(b'}') {
                        self.member()?;
                        continue;
                    }
                }
                b'[' => {
                    nesting.enter(false)?;
                    self.blanks();
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                first @ (b'-' | b'0'..=b'9') => self.number(first)?,
                b't' => self.word(b"rue")?,
                b'f' => self.word(b"alse")?,
                b'n' => self.word(b"ull")?,
                _ => return None,
            }
            // One has ended here, or an empty array or object ends.
            loop {
                if nesting.depth == 0 {
                    return Some(());
                }
                self.blanks();
                match (self.next()?, nesting.is_in_object()) {
                    (b',', true) => {
                        self.blanks();
                        self.member()?;
                        break;
                    }
                    (b',', false) => {
                        self.blanks();
                        break;
                    }
                    (b'}', true) | (b']', false) => nesting.leave(),
                    _ => return None,
                }
            }
        }
    }

    /// The key of a value within an object, up to the value.
    fn member(&mut self) -> Option<()> {
        self.expect(b'"')?;
        self.string()?;
        self.blanks();
        self.expect(b':')?;
        self.blanks();
        Some(())
    }

    /// A string, its opening quote taken; whether it has escapes.
    fn string(&mut self) -> Option<bool> {
        let mut escaped = false;
        loop {
            let rest = self.rest();
            let end = memchr::memchr2(b'"', b'\\', rest)?;
            // Without a branch for each byte, so that many are looked at together.
            if rest[..end].iter().fold(false, |found, byte| found | (*byte < 0x20)) {
                return None;
            }
            self.at += end + 1;
            if rest[end] == b'"' {
                return Some(escaped);
            }
            escaped = true;
            match self.next()? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    // Half of a surrogate pair is valid JSON, though no text.
                    self.rest().get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                    self.at += 4;
                }
                _ => return None,
            }
        }
    }

    /// A number whose first byte is taken.
    fn number(&mut self, first: u8) -> Option<()> {
        let first = if first == b'-' { self.next()? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Some(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Option<()> {
        let start = self.at;
        self.digits();
        (self.at > start).then_some(())
    }

    fn word(&mut self, rest: &[u8]) -> Option<()> {
        self.rest().starts_with(rest).then(|| self.at += rest.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::event::{is_nested_deeper, slow_fields};

    /// What the slow way makes of it, where the quick one may answer at all.
    fn agrees(json: &str) -> Result<(), TestCaseError> {
        let slow = slow_fields(json).ok().filter(|_| !is_nested_deeper(json, MAX_DEPTH));
        if let Some(quick) = fields(json) {
            prop_assert_eq!(Some(quick), slow, "{}", json);
        }
        Ok(())
    }

    #[test]
    fn what_events_usually_are_goes_the_quick_way() {
        for json in [
            "{}",
            " { } ",
            r#"{"id":"042","priority":3,"msg":"any JSON value"}"#,
            r#"{"msg":{"a":[1,-0.5e+7,[],{},{"b":null}],"c":"\u00e9\ud800\n"},"other":true,"id":7,"ttl_ms":1,"delay_ms":false}"#,
            "{\"msg\" :\t[ 1 , 2 ]\r\n, \"id\" : \"ä\"}",
        ] {
            assert!(fields(json).is_some(), "{json}");
            agrees(json).unwrap();
        }
    }

    #[test]
    fn nesting_is_counted_with_the_events_own_object() {
        for open in ["[", "{\"a\":"] {
            let nested = |n: usize| {
                let close = if open == "[" { "]" } else { "}" };
                format!("{{\"msg\":{}1{}}}", open.repeat(n), close.repeat(n))
            };
            assert!(fields(&nested(127)).is_some());
            assert!(fields(&nested(128)).is_none());
            assert!(fields(&nested(100_000)).is_none());
        }
    }

    #[test]
    fn whatever_is_wrong_is_left_to_the_slow_way() {
        for json in [
            "",
            "{",
            "{]",
            "[]",
            "{} x",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"msg":01}"#,
            r#"{"msg":1.}"#,
            r#"{"msg":1e}"#,
            r#"{"msg":-}"#,
            r#"{"msg":.5}"#,
            r#"{"msg":+1}"#,
            r#"{"msg":tru}"#,
            r#"{"msg":[1,]}"#,
            r#"{"msg":[1}}"#,
            r#"{"msg":{"a":1]}"#,
            r#"{"msg":{"a"}}"#,
            r#"{"msg":{1:2}}"#,
            r#"{"msg":"\x"}"#,
            r#"{"msg":"\u12g4"}"#,
            r#"{"msg":"\u123"#,
            "{\"msg\":\"\u{1}\"}",
            r#"{"id":1,"id":2}"#,
            r#"{"\u0069d":1}"#,
        ] {
            assert!(fields(json).is_none(), "{json}");
        }
    }

    /// Texts that are nearly JSON.
    fn nearly_json() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\"id\"",
            "\"msg\"",
            "\"priority\"",
            "\"a\"",
            "1",
            "-",
            "0",
            ".5",
            "e",
            "E+3",
            "true",
            "false",
            "null",
            " ",
            "\t",
            "\n",
            "\\u00e9",
            "\\ud800",
            "\\n",
            "\u{1}",
            "ä",
            "x",
            "{\"msg\":",
            "{\"id\":\"7\",",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn it_accepts_nothing_that_the_slow_way_does_not(json in nearly_json()) {
            agrees(&json)?;
            agrees(&format!("{{\"msg\":{json}}}"))?;
        }

        #[test]
        fn a_change_of_one_byte_is_seen_as_the_slow_way_sees_it(at in 0_usize..120, byte in 0_u8..128) {
            let mut json = br#"{"id":"042","priority":-3,"msg":{"a":[1,2.5e3,"x\u00e9"],"b":{}},"ttl_ms":100,"other":[true,false,null]}"#.to_vec();
            let at = at % json.len();
            json[at] = byte;
            if let Ok(json) = String::from_utf8(json) {
                agrees(&json)?;
            }
        }
    }
}
