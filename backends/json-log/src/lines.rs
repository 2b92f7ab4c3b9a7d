//! Reading a segment from its beginning, line by line, in bounded memory.

use std::io;

use crate::files::DataFile;
use crate::format::{MAX_LINE_BYTES, check, leading_record};

/// What is read at a time, unless a line is longer.
const CHUNK: usize = 256 << 10;

/// The next piece of a segment.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A line that checks.
    Record {
        /// Where it begins.
        offset: u64,
        /// Its length with its ending.
        len: u64,
        /// What its checksum covers.
        body: &'a [u8],
        /// Whether it ends as a line does.
        ended: bool,
    },
    /// A line that does not check.
    Bad {
        /// Where it begins.
        offset: u64,
        /// Its length with its ending, if it has one.
        len: u64,
        /// Whether it may have been written to its end and changed afterwards: it ends, and holds no NUL. A write that was cut
        /// off leaves neither.
        whole: bool,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The record before this was good, but not the byte that should end its line.
    Ending {
        /// Where that byte is.
        offset: u64,
    },
}

/// Reads the lines of a file up to an end. Holds at most [`MAX_LINE_BYTES`] of it.
#[derive(Debug)]
pub(crate) struct LineReader<'f> {
    file: &'f dyn DataFile,
    /// Where reading ends.
    end: u64,
    buffer: Vec<u8>,
    /// What of the buffer is not consumed.
    from: usize,
    to: usize,
    /// The file's offset of the buffer's beginning.
    base: u64,
    /// Where a damaged line ending is to be reported.
    ending: Option<u64>,
}

enum Found {
    /// A line of so many bytes before its ending.
    Line(usize),
    /// The file ends after so many bytes without a line ending.
    Rest(usize),
    /// A line longer than any that is written, skipped.
    TooLong {
        offset: u64,
        len: u64,
    },
    End,
}

impl<'f> LineReader<'f> {
    /// Reads `file` from its beginning to `end`.
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
                return Ok(Some(Piece::Bad {
                    offset,
                    len,
                    whole: false,
                    what: "a line longer than any that is written",
                }));
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
            // The byte after it should have been a line ending; what follows is a line of its own.
            self.from = start + record + 1;
            self.ending = Some(offset + record as u64);
            let body = check(&self.buffer[start..start + record]).unwrap_or_default();
            return Ok(Some(Piece::Record { offset, len: record as u64 + 1, body, ended: true }));
        }
        let zero = memchr::memchr(0, line).is_some();
        let what = if !ended {
            "an unfinished line"
        } else if zero {
            "a line with zeros in it"
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

    /// Reads more behind what is there; false at the end.
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
