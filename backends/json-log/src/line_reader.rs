//! Reads a segment from its start, line by line, in bounded memory.

use std::io;

use durable_files::DataFile;

use crate::format::{MAX_LINE_BYTES, check, leading_record};

/// The size of one read, unless a line is longer.
const CHUNK: usize = 256 << 10;

/// The next piece of a segment.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A line whose checksum matches.
    Record {
        /// Its first byte.
        offset: u64,
        /// Its length, line ending included.
        len: u64,
        /// The bytes that its checksum covers.
        body: &'a [u8],
        /// Whether the line ending is present.
        ended: bool,
    },
    /// A line whose checksum does not match.
    Bad {
        /// Its first byte.
        offset: u64,
        /// Its length, with the line ending if it has one.
        len: u64,
        /// Whether the line may have been written completely and changed later: it has a line ending and no zeros. An interrupted
        /// write leaves a line without an ending, or with zeros.
        whole: bool,
        /// The reason, for operators.
        what: &'static str,
    },
    /// The line ending after a valid record is damaged.
    Ending {
        /// The offset of the damaged byte.
        offset: u64,
    },
}

/// Reads the lines of a file up to a given end. Buffers at most about [`MAX_LINE_BYTES`].
#[derive(Debug)]
pub(crate) struct LineReader<'f> {
    file: &'f dyn DataFile,
    /// The offset at which reading ends.
    end: u64,
    buffer: Vec<u8>,
    /// The unconsumed part of the buffer.
    from: usize,
    to: usize,
    /// The offset in the file of the buffer's first byte.
    base: u64,
    /// A damaged line ending to report next.
    ending: Option<u64>,
}

enum Found {
    /// A line of this length, without its line ending.
    Line(usize),
    /// The last bytes of the file, without a line ending.
    Rest(usize),
    /// A skipped line, longer than any valid one.
    TooLong {
        offset: u64,
        len: u64,
    },
    End,
}

impl<'f> LineReader<'f> {
    /// Reads `file` from its start to `end`.
    pub(crate) fn new(file: &'f dyn DataFile, end: u64) -> Self {
        Self { file, end, buffer: vec![0; CHUNK], from: 0, to: 0, base: 0, ending: None }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        if let Some(offset) = self.ending.take() {
            return Ok(Some(Piece::Ending { offset }));
        }
        let (len, ended) = match self.find()? {
            Found::Line(len) => (len, true),
            Found::Rest(len) => (len, false),
            Found::TooLong { offset, len } => {
                return Ok(Some(Piece::Bad { offset, len, whole: false, what: "a line longer than any valid one" }));
            }
            Found::End => return Ok(None),
        };
        let start = self.from;
        let offset = self.base + start as u64;
        let line = &self.buffer[start..start + len];
        self.from = start + len + usize::from(ended);
        if let Some(body) = check(line) {
            if !ended {
                self.ending = Some(offset + len as u64);
            }
            return Ok(Some(Piece::Record { offset, len: (len + usize::from(ended)) as u64, body, ended }));
        }
        if let Some(record) = leading_record(line) {
            // The byte after the record should be a line ending; the next line follows it.
            self.from = start + record + 1;
            self.ending = Some(offset + record as u64);
            let body = check(&self.buffer[start..start + record]).unwrap_or_default();
            return Ok(Some(Piece::Record { offset, len: record as u64 + 1, body, ended: true }));
        }
        let zero = memchr::memchr(0, line).is_some();
        let what = if !ended {
            "an unfinished line"
        } else if zero {
            "a line that contains zero bytes"
        } else {
            "a line whose checksum does not match"
        };
        let len = (len + usize::from(ended)) as u64;
        Ok(Some(Piece::Bad { offset, len, whole: ended && !zero, what }))
    }

    fn find(&mut self) -> io::Result<Found> {
        let mut scanned = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.from + scanned..self.to]) {
                return Ok(Found::Line(scanned + at));
            }
            scanned = self.to - self.from;
            if scanned >= MAX_LINE_BYTES {
                return self.skip_line();
            }
            if !self.fill()? {
                return Ok(if scanned == 0 { Found::End } else { Found::Rest(scanned) });
            }
        }
    }

    fn skip_line(&mut self) -> io::Result<Found> {
        let offset = self.base + self.from as u64;
        loop {
            let newline = memchr::memchr(b'\n', &self.buffer[self.from..self.to]);
            self.from = newline.map_or(self.to, |at| self.from + at + 1);
            if newline.is_some() || !self.fill()? {
                return Ok(Found::TooLong { offset, len: self.base + self.from as u64 - offset });
            }
        }
    }

    /// Reads more bytes into the buffer; returns false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            self.base += self.from as u64;
            self.to -= self.from;
            self.from = 0;
        }
        if self.to == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let at = self.base + self.to as u64;
        let room = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let room = room.min(self.buffer.len() - self.to);
        if room == 0 {
            return Ok(false);
        }
        let read = loop {
            match self.file.read_at(&mut self.buffer[self.to..self.to + room], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.to += read;
        Ok(read > 0)
    }
}
