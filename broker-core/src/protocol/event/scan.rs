//! The fast path through an event's JSON: one pass over the bytes that validates them and finds the known keys.
//!
//! It accepts only what it is sure of, which is nearly every event. An escaped key, a key given twice, and anything invalid are
//! left to the full parser, so the result and the errors are those of the full parser alone. Tests compare the two.

#[cfg(test)]
mod tests;

use super::MAX_DEPTH;
use super::fields::Fields;

/// Returns the fields of the object `json`, or `None` to leave it to the full parser.
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

/// The arrays and objects around a value: one bit per open level, the innermost in the lowest bit.
struct Nesting {
    /// A bit is 1 for an object, 0 for an array.
    objects: u128,
    depth: usize,
}

impl Nesting {
    fn enter(&mut self, is_object: bool) -> Option<()> {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        // The event's own object is one level more.
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

    /// Reads a key without escapes, and returns it without its quotes.
    fn key(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        let escaped = self.string()?;
        (!escaped).then(|| &self.json[start..self.at - 1])
    }

    /// Reads any value.
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
            // A value has ended here, or an empty array or object is about to.
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

    /// Reads a key within a nested object, up to its value.
    fn member(&mut self) -> Option<()> {
        self.expect(b'"')?;
        self.string()?;
        self.blanks();
        self.expect(b':')?;
        self.blanks();
        Some(())
    }

    /// Reads a string after its opening quote, and returns whether it has escapes.
    fn string(&mut self) -> Option<bool> {
        let mut escaped = false;
        loop {
            let rest = self.rest();
            let end = memchr::memchr2(b'"', b'\\', rest)?;
            // Without a branch per byte, so that the compiler vectorizes it.
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
                    // A lone surrogate is valid JSON, though not a valid string.
                    self.rest().get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                    self.at += 4;
                }
                _ => return None,
            }
        }
    }

    /// Reads a number after its first byte.
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
