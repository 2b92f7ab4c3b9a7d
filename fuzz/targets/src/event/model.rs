//! The rules of an event as the protocol words them: a naive reader of JSON (RFC 8259) that keeps where values stand.

/// The content of an event.
pub(super) struct Event<'a> {
    /// `None`: one is to be assigned.
    pub(super) id: Option<String>,
    pub(super) priority: i32,
    pub(super) msg: &'a str,
    pub(super) ttl_ms: u64,
    pub(super) delay_ms: u64,
}

/// The deepest nesting, the event's own object included.
const DEEPEST: usize = 128;

/// The largest integer that every implementation of JSON holds.
const LARGEST: u64 = (1 << 53) - 1;

/// Reads an event.
pub(super) fn read(json: &str) -> Result<Event<'_>, &'static str> {
    let members = members(json)?;
    let mut event = Event { id: None, priority: 0, msg: "null", ttl_ms: 0, delay_ms: 0 };
    let mut seen = Vec::new();
    for (key, value) in members {
        let Some(key) = key.filter(|key| ["id", "priority", "msg", "ttl_ms", "delay_ms"].contains(&key.as_str()))
        else {
            continue;
        };
        if seen.contains(&key) {
            return Err("a key is given twice");
        }
        if key == "msg" {
            event.msg = value;
        } else if value != "null" {
            match key.as_str() {
                "id" => event.id = Some(id(value)?),
                "priority" => event.priority = integer(value)?.parse().map_err(|_| "not 32 bits")?,
                "ttl_ms" => event.ttl_ms = milliseconds(value)?,
                _ => event.delay_ms = milliseconds(value)?,
            }
        }
        seen.push(key);
    }
    Ok(event)
}

/// Whether `text` is one JSON value, no deeper than the limit.
pub(super) fn is_json(text: &str) -> bool {
    let mut reader = Reader { text, at: 0 };
    reader.value(1).is_ok() && reader.at == text.len()
}

fn integer(value: &str) -> Result<&str, &'static str> {
    let is_number = value.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if is_number && !value.contains(['.', 'e', 'E']) { Ok(value) } else { Err("not an integer") }
}

fn milliseconds(value: &str) -> Result<u64, &'static str> {
    let ms: u64 = integer(value)?.parse().map_err(|_| "not milliseconds")?;
    if ms <= LARGEST { Ok(ms) } else { Err("too many milliseconds") }
}

fn id(value: &str) -> Result<String, &'static str> {
    let id = match value.strip_prefix('"') {
        Some(_) => unescape(value).ok_or("half of a surrogate pair")?,
        None => integer(value)?.to_owned(),
    };
    if id.is_empty() || id.len() > 255 || id.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("not an id");
    }
    Ok(id)
}

/// The characters of a string that was read; `None` where there is half of a surrogate pair.
fn unescape(quoted: &str) -> Option<String> {
    let mut units = Vec::new();
    let mut chars = quoted[1..quoted.len() - 1].chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
            continue;
        }
        units.push(match chars.next()? {
            'u' => {
                let digits: String = chars.by_ref().take(4).collect();
                u16::from_str_radix(&digits, 16).ok()?
            }
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            plain => plain as u16,
        });
    }
    String::from_utf16(&units).ok()
}

/// The members of the object that `json` is, each with its key (if that is text) and its value as it stands.
fn members(json: &str) -> Result<Vec<(Option<String>, &str)>, &'static str> {
    let mut reader = Reader { text: json, at: 0 };
    let mut members = Vec::new();
    reader.blanks();
    reader.object(1, &mut |key, value| members.push((unescape(key), value)))?;
    reader.blanks();
    if reader.at == json.len() { Ok(members) } else { Err("there is something behind it") }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Result<(), &'static str> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err("another character was expected")
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// A value at a depth, from its first byte to its last.
    fn value(&mut self, depth: usize) -> Result<&'a str, &'static str> {
        let start = self.at;
        match self.peek() {
            Some(b'{') => self.object(depth, &mut |_, _| {})?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => {
                let rest = &self.text[self.at..];
                let word = ["null", "true", "false"].into_iter().find(|word| rest.starts_with(word));
                self.at += word.ok_or("no value")?.len();
            }
        }
        Ok(&self.text[start..self.at])
    }

    fn object(&mut self, depth: usize, member: &mut dyn FnMut(&'a str, &'a str)) -> Result<(), &'static str> {
        self.take(b'{')?;
        if depth > DEEPEST {
            return Err("nested too deep");
        }
        self.blanks();
        if self.take(b'}').is_ok() {
            return Ok(());
        }
        loop {
            self.blanks();
            let start = self.at;
            self.string()?;
            let key = &self.text[start..self.at];
            self.blanks();
            self.take(b':')?;
            self.blanks();
            let value = self.value(depth + 1)?;
            member(key, value);
            self.blanks();
            if self.take(b',').is_err() {
                return self.take(b'}');
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), &'static str> {
        self.take(b'[')?;
        if depth > DEEPEST {
            return Err("nested too deep");
        }
        self.blanks();
        if self.take(b']').is_ok() {
            return Ok(());
        }
        loop {
            self.blanks();
            self.value(depth + 1)?;
            self.blanks();
            if self.take(b',').is_err() {
                return self.take(b']');
            }
        }
    }

    fn string(&mut self) -> Result<(), &'static str> {
        self.take(b'"')?;
        loop {
            let byte = self.peek().ok_or("a string has no end")?;
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                0..=0x1f => return Err("a control character in a string"),
                b'\\' => {
                    let escape = self.peek().ok_or("a string has no end")?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            for _ in 0..4 {
                                self.peek().filter(u8::is_ascii_hexdigit).ok_or("no hexadecimal digit")?;
                                self.at += 1;
                            }
                        }
                        _ => return Err("no such escape"),
                    }
                }
                _ => {}
            }
        }
    }

    fn digits(&mut self) -> Result<(), &'static str> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err("no digit") }
    }

    fn number(&mut self) -> Result<(), &'static str> {
        let _negative = self.take(b'-');
        if self.take(b'0').is_err() {
            self.digits()?;
        }
        if self.take(b'.').is_ok() {
            self.digits()?;
        }
        if self.take(b'e').or_else(|_| self.take(b'E')).is_ok() {
            let _sign = self.take(b'+').or_else(|_| self.take(b'-'));
            self.digits()?;
        }
        Ok(())
    }
}
