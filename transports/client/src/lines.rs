//! Bytes to lines. Pure: no socket in here.

use bytes::{Buf as _, BytesMut};

use crate::error::Error;

/// How much room a read gets. One delivery is some hundred bytes, so this is a few hundred of them in one system call.
const READ_BYTES: usize = 32 * 1024;
/// An empty buffer that one giant line has grown is given back beyond this capacity.
const KEEP_BYTES: usize = 1024 * 1024;

/// Collects bytes and hands out lines without their ending (LF or CRLF).
///
/// Holds at most `max_line_bytes` and one read, whatever the other end sends. A byte is searched for a line end once,
/// however many reads a line takes.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    bytes: BytesMut,
    /// Where the next line begins; before it is what has been handed out.
    start: usize,
    /// No line end between `start` and here.
    searched: usize,
    max_line_bytes: usize,
}

impl LineBuffer {
    pub(crate) fn new(max_line_bytes: usize) -> Self {
        Self { bytes: BytesMut::new(), start: 0, searched: 0, max_line_bytes }
    }

    /// Changes the limit.
    pub(crate) fn set_limit(&mut self, max_line_bytes: usize) {
        self.max_line_bytes = max_line_bytes;
    }

    /// The longest line that is taken.
    pub(crate) fn limit(&self) -> usize {
        self.max_line_bytes
    }

    /// Where the next read goes. Call [`LineBuffer::next_line`] until it has none first.
    pub(crate) fn space(&mut self) -> &mut BytesMut {
        self.bytes.advance(self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP_BYTES {
            self.bytes = BytesMut::new();
        }
        self.bytes.reserve(READ_BYTES);
        &mut self.bytes
    }

    /// The next complete line. What is not terminated stays for later.
    pub(crate) fn next_line(&mut self) -> Result<Option<&str>, Error> {
        let Some(found) = memchr::memchr(b'\n', &self.bytes[self.searched..]) else {
            self.searched = self.bytes.len();
            // One more for the CR of an ending that is cut in two.
            if self.bytes.len() - self.start > self.max_line_bytes + 1 {
                return Err(self.too_long());
            }
            return Ok(None);
        };
        let from = self.start;
        let end = self.searched + found;
        self.start = end + 1;
        self.searched = self.start;
        let line = &self.bytes[from..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.max_line_bytes {
            return Err(self.too_long());
        }
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Some(line)),
            Err(_) => Err(Error::Protocol("a line is not valid UTF-8".to_owned())),
        }
    }

    fn too_long(&self) -> Error {
        Error::Protocol(format!("a line is longer than {} bytes", self.max_line_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(buffer: &mut LineBuffer) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        while let Some(line) = buffer.next_line()? {
            lines.push(line.to_owned());
        }
        Ok(lines)
    }

    #[test]
    fn lines_come_out_the_same_however_the_bytes_are_split() {
        let input = "one\r\ntwo\n\r\nthré\r\r\nrest".as_bytes();
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let mut buffer = LineBuffer::new(100);
                let mut lines = Vec::new();
                for part in [&input[..first], &input[first..second], &input[second..]] {
                    buffer.space().extend_from_slice(part);
                    lines.extend(drain(&mut buffer).unwrap());
                }
                assert_eq!(lines, ["one", "two", "", "thré\r"], "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        for (length, ending, ok) in
            [(10, "\n", true), (10, "\r\n", true), (11, "\n", false), (11, "\r\n", false), (12, "", false)]
        {
            let mut buffer = LineBuffer::new(10);
            buffer.space().extend_from_slice(format!("{}{ending}", "x".repeat(length)).as_bytes());
            assert_eq!(drain(&mut buffer).is_ok(), ok, "{length} {ending:?}");
        }
    }

    #[test]
    fn memory_stays_within_a_line_and_a_read() {
        let mut buffer = LineBuffer::new(100);
        for _ in 0..10_000 {
            buffer.space().extend_from_slice(b"0123456789\n");
            assert_eq!(drain(&mut buffer).unwrap().len(), 1);
        }
        assert!(buffer.bytes.capacity() <= 4 * READ_BYTES, "{}", buffer.bytes.capacity());
    }

    #[test]
    fn bytes_that_are_not_utf8_are_an_error() {
        let mut buffer = LineBuffer::new(100);
        buffer.space().extend_from_slice(b"\xff\xfe\n");
        assert!(matches!(drain(&mut buffer), Err(Error::Protocol(_))));
    }
}
