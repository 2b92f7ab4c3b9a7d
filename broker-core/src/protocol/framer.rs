//! Splits bytes into lines, in bounded memory, wherever the reads divide them.

mod telnet;

use std::ops::Range;

use bytes::{Buf, BufMut as _, BytesMut};

pub use telnet::Answers;
use telnet::{Effect, Telnet};

/// One line of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line without its ending and without leading and trailing blanks.
    Line(&'a str),
    /// A line longer than the limit. The rest of it is skipped.
    TooLong,
    /// A line that is not UTF-8.
    NotUtf8,
}

/// Splits a stream into lines, which LF, CRLF or CR NUL ends, and takes telnet's commands out of it.
#[derive(Debug)]
pub struct Framer {
    limit: usize,
    /// The latest read. Bytes before `from` have been consumed.
    input: BytesMut,
    from: usize,
    /// The beginning of an unfinished line. A copy, so that it does not pin the whole read.
    begun: BytesMut,
    /// The line that `begun` was completed to.
    whole: BytesMut,
    /// Whether the rest of a line that was too long is being skipped.
    skipping: bool,
    /// Whether empty lines are frames.
    empty_lines: bool,
    telnet: Telnet,
}

/// The location of a line.
enum Found {
    /// In `input`.
    Input(Range<usize>),
    /// In `whole`.
    Whole(Range<usize>),
    TooLong,
}

/// Whether a byte separates words, and is ignored at a line's ends. CR does, since telnet sends one for a bare return.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

impl Framer {
    /// Creates a framer for lines of up to `limit` bytes, without the ending.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            input: BytesMut::new(),
            from: 0,
            begun: BytesMut::new(),
            whole: BytesMut::new(),
            skipping: false,
            empty_lines: false,
            telnet: Telnet::default(),
        }
    }

    /// Makes empty lines frames, too.
    #[must_use]
    pub fn with_empty_lines(mut self) -> Self {
        self.empty_lines = true;
        self
    }

    /// The longest line, in bytes, without its ending.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets the limit, from the next line on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The bytes that it keeps: those of an unfinished line, once [`Framer::next_frame`] has returned `None`.
    #[must_use]
    pub fn held(&self) -> usize {
        self.input.len() - self.from + self.begun.len() + self.whole.len()
    }

    /// Takes `input`, up to a telnet command that wants an answer: take [`Framer::next_frame`] and [`Framer::take_answers`] until
    /// nothing is left, so that the answer follows those to the lines before it. The memory kept is bounded by the limit and the
    /// length of `input`.
    pub fn push(&mut self, input: &mut BytesMut) {
        if !self.telnet.is_plain(input) {
            self.push_telnet(input);
            return;
        }
        if self.skipping {
            match memchr::memchr(b'\n', input) {
                Some(at) => {
                    input.advance(at + 1);
                    self.skipping = false;
                }
                None => {
                    input.clear();
                    return;
                }
            }
        }
        if self.from == self.input.len() {
            self.input = input.split();
            self.from = 0;
        } else {
            self.input.extend_from_slice(input);
            input.clear();
        }
    }

    /// Takes input with telnet's bytes in it, one by one.
    fn push_telnet(&mut self, input: &mut BytesMut) {
        if self.from == self.input.len() {
            self.input.clear();
            self.from = 0;
        }
        // With lines before it that wait, a command is passed over: finding their end again for each one would take long.
        let stops = self.input.is_empty();
        self.input.reserve(input.len() + 1);
        let mut start = memchr::memrchr(b'\n', &self.input[self.from..]).map_or(self.from, |at| self.from + at + 1);
        for at in 0..input.len() {
            if stops && self.telnet.has_answers() {
                input.advance(at);
                return;
            }
            match self.telnet.step(input[at]) {
                Effect::None => {}
                Effect::Byte(byte) => self.put(byte, &mut start),
                Effect::Stray(bytes) => bytes.into_iter().for_each(|byte| self.put(byte, &mut start)),
                Effect::EraseCharacter => self.erase_character(start),
                Effect::EraseLine if self.may_erase(start) => self.erase_line(start),
                Effect::EraseLine => {}
            }
        }
        input.clear();
    }

    /// Adds a byte to the line that begins at `start`.
    fn put(&mut self, byte: u8, start: &mut usize) {
        if self.skipping {
            self.skipping = byte != b'\n';
            return;
        }
        self.input.put_u8(byte);
        if byte == b'\n' {
            *start = self.input.len();
        }
    }

    /// Whether the line that begins at `start` continues the one in `begun`.
    fn continues(&self, start: usize) -> bool {
        start == self.from
    }

    /// Whether the line that begins at `start` can be edited. One that is too long cannot, wherever the reads divide it: it may
    /// have been reported and dropped already.
    fn may_erase(&self, start: usize) -> bool {
        let begun = if self.continues(start) { self.begun.len() } else { 0 };
        let last = self.input[start..].last().or(if begun > 0 { self.begun.last() } else { None });
        let length = begun + self.input.len() - start - usize::from(last == Some(&b'\r'));
        !self.skipping && length <= self.limit
    }

    /// Takes the last character off the line that begins at `start`.
    fn erase_character(&mut self, start: usize) {
        if !self.may_erase(start) {
            return;
        }
        loop {
            let (typed, floor) = if self.input.len() == start && self.continues(start) {
                (&mut self.begun, 0)
            } else {
                (&mut self.input, start)
            };
            let Some(byte) = typed[floor..].last().copied() else { return };
            typed.truncate(typed.len() - 1);
            // The first byte of a character is the last to go.
            if byte & 0b1100_0000 != 0b1000_0000 {
                return;
            }
        }
    }

    /// Throws away the line that begins at `start`.
    fn erase_line(&mut self, start: usize) {
        self.input.truncate(start);
        if self.continues(start) {
            self.begun.clear();
        }
    }

    /// The answers that telnet's commands in the input want. Each is a few bytes, no more than three times the bytes of the command.
    pub fn take_answers(&mut self) -> Option<Answers> {
        self.telnet.take_answers()
    }

    /// The next complete line. Empty lines are skipped, unless asked for.
    pub fn next_frame(&mut self) -> Option<Frame<'_>> {
        loop {
            let (bytes, line) = match self.find()? {
                Found::Input(line) | Found::Whole(line) if line.is_empty() && !self.empty_lines => continue,
                Found::Input(line) => (&self.input, line),
                Found::Whole(line) => (&self.whole, line),
                Found::TooLong => return Some(Frame::TooLong),
            };
            return Some(std::str::from_utf8(&bytes[line]).map_or(Frame::NotUtf8, Frame::Line));
        }
    }

    /// Finds the next line. It comes without its ending and the blanks around it, and may be empty.
    fn find(&mut self) -> Option<Found> {
        let from = self.from;
        let Some(at) = memchr::memchr(b'\n', &self.input[from..]) else {
            self.begun.extend_from_slice(&self.input[from..]);
            // An idle connection keeps no buffer.
            (self.input, self.from, self.whole) = (BytesMut::new(), 0, BytesMut::new());
            // The one byte beyond the limit may be the CR of the ending.
            if without_cr(&self.begun, 0..self.begun.len()).len() > self.limit {
                self.begun = BytesMut::new();
                self.skipping = true;
                return Some(Found::TooLong);
            }
            return None;
        };
        self.from = from + at + 1;
        if self.begun.is_empty() {
            let line = without_cr(&self.input, from..from + at);
            return Some(if line.len() > self.limit {
                Found::TooLong
            } else {
                Found::Input(trimmed(&self.input, line))
            });
        }
        self.begun.extend_from_slice(&self.input[from..from + at]);
        self.whole = std::mem::take(&mut self.begun);
        let line = without_cr(&self.whole, 0..self.whole.len());
        Some(if line.len() > self.limit { Found::TooLong } else { Found::Whole(trimmed(&self.whole, line)) })
    }
}

/// A line without the CR of its ending.
fn without_cr(bytes: &[u8], line: Range<usize>) -> Range<usize> {
    let cr = bytes[line.clone()].last() == Some(&b'\r');
    line.start..line.end - usize::from(cr)
}

/// A line without the blanks at its ends.
fn trimmed(bytes: &[u8], line: Range<usize>) -> Range<usize> {
    let text = &bytes[line.clone()];
    let Some(start) = text.iter().position(|byte| !is_blank(*byte)) else { return 0..0 };
    let end = text.iter().rposition(|byte| !is_blank(*byte)).map_or(start, |at| at + 1);
    line.start + start..line.start + end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame that owns its line.
    #[derive(Debug, Clone, PartialEq)]
    enum Said {
        Line(String),
        TooLong,
        NotUtf8,
    }

    fn next(framer: &mut Framer) -> Option<Said> {
        framer.next_frame().map(|frame| match frame {
            Frame::Line(line) => Said::Line(line.to_owned()),
            Frame::TooLong => Said::TooLong,
            Frame::NotUtf8 => Said::NotUtf8,
        })
    }

    fn frames(limit: usize, pieces: &[&[u8]]) -> Vec<Said> {
        let mut framer = Framer::new(limit);
        let mut frames = Vec::new();
        for piece in pieces {
            let mut piece = BytesMut::from(*piece);
            while !piece.is_empty() {
                framer.push(&mut piece);
                frames.extend(std::iter::from_fn(|| next(&mut framer)));
                framer.take_answers();
            }
        }
        frames
    }

    fn line(text: &str) -> Said {
        Said::Line(text.to_owned())
    }

    /// Tries every way to cut `bytes` in two, and single bytes.
    fn however_split(limit: usize, bytes: &[u8], expected: &[Said]) {
        for at in 0..=bytes.len() {
            assert_eq!(frames(limit, &[&bytes[..at], &bytes[at..]]), expected, "split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(frames(limit, &single), expected, "byte by byte");
    }

    #[test]
    fn lines_end_with_lf_or_crlf_and_blanks_around_them_do_not_count() {
        however_split(100, b"a b\r\n\n  \t\r\n \tc\td \r\nend\nunfinished", &[line("a b"), line("c\td"), line("end")]);
    }

    #[test]
    fn the_limit_does_not_count_the_ending_and_a_longer_line_costs_only_itself() {
        however_split(
            4,
            b"1234\r\n1234\n12345\n\r\n12345\r\nab\n",
            &[line("1234"), line("1234"), Said::TooLong, Said::TooLong, line("ab")],
        );
    }

    #[test]
    fn telnet_commands_are_taken_out_wherever_they_stand() {
        // Ctrl-C: IAC IP, IAC DO TIMING-MARK; a subnegotiation; an escaped 0xFF.
        let bytes =
            b"wrong\xff\xf4\xff\xfd\x06ping\r\n\xff\xfa\x18\x00xterm\n\xff\xff\xff\xf0to\xff\xfb\x01pics\n\xff\xffx\n";
        however_split(100, bytes, &[line("ping"), line("topics"), line("x")]);
    }

    #[test]
    fn cr_nul_ends_a_line_and_other_nuls_do_not() {
        however_split(100, b"ping\r\0to\0x\r\0\0a\r\0\r\n", &[line("ping"), line("to\0x"), line("\0a")]);
    }

    #[test]
    fn interrupts_and_erasures_edit_the_line_that_is_being_typed() {
        for erase in [b'\xf3', b'\xf4', b'\xf8'] {
            however_split(
                100,
                &[b"one\nwrong\xff", &[erase][..], b"two\n\xff", &[erase], b"three\n"].concat(),
                &[line("one"), line("two"), line("three")],
            );
        }
        let erase_character = "a\npinX\u{1}k\u{1}g\n\u{1}b\u{1}\u{1}\u{1}c\nxä€\u{1}\u{1}\n".as_bytes();
        let bytes: Vec<u8> =
            erase_character.iter().flat_map(|byte| if *byte == 1 { vec![0xff, 0xf7] } else { vec![*byte] }).collect();
        however_split(100, &bytes, &[line("a"), line("ping"), line("c"), line("x")]);
        // A line that is too long cannot be edited any more, wherever it was divided.
        however_split(4, b"123456\xff\xf7\xff\xf8ping\nabc\r\xff\xf7d\n", &[Said::TooLong, line("abcd")]);
    }

    #[test]
    fn options_are_refused_once_and_timing_marks_and_questions_answered_each_time() {
        let bytes = b"\xff\xfd\x06\xff\xfd\x01pi\xff\xf6ng\n\xff\xfb\x01\xff\xfd\x01\xff\xfb\x01\xff\xfe\x03\xff\xfc\x03\xff\xfd\x06\xff\xf6";
        for at in 0..=bytes.len() {
            let mut framer = Framer::new(100);
            let (mut negotiation, mut pongs) = (Vec::new(), 0);
            for part in [&bytes[..at], &bytes[at..]] {
                let mut part = BytesMut::from(part);
                while !part.is_empty() {
                    framer.push(&mut part);
                    if let Some(answers) = framer.take_answers() {
                        negotiation.extend_from_slice(&answers.negotiation);
                        pongs += answers.pongs;
                    }
                }
            }
            assert_eq!(negotiation, b"\xff\xfb\x06\xff\xfc\x01\xff\xfe\x01\xff\xfb\x06", "cut at {at}");
            assert_eq!(pongs, 2);
            assert_eq!(next(&mut framer), Some(line("ping")));
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_cost_their_line() {
        however_split(100, b"a\xc3\n\xc3\xa4\n\x80\n", &[Said::NotUtf8, line("ä"), Said::NotUtf8]);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut framer = Framer::new(1000);
        let mut reports = 0;
        for _ in 0..10_000 {
            framer.push(&mut BytesMut::from(&[b'x'; 1000][..]));
            while framer.next_frame().is_some() {
                reports += 1;
            }
            assert!(framer.held() <= 2000);
        }
        assert_eq!(reports, 1);
    }

    #[test]
    fn a_stray_iac_costs_its_line_and_not_the_next() {
        for cut in 0..=14 {
            let (mut framer, input) = (Framer::new(99), b"pub t \xff\nping\r\n");
            let mut frames = Vec::new();
            for part in [&input[..cut], &input[cut..]] {
                framer.push(&mut BytesMut::from(part));
                frames.extend(std::iter::from_fn(|| next(&mut framer)));
            }
            assert_eq!(frames, [Said::NotUtf8, line("ping")], "cut at {cut}");
        }
    }

    #[test]
    fn a_subnegotiation_without_end_is_given_up() {
        let mut framer = Framer::new(99);
        framer.push(&mut BytesMut::from(&b"\xff\xfa"[..]));
        framer.push(&mut BytesMut::from("ping\n".repeat(1000).as_bytes()));
        let frames = std::iter::from_fn(|| next(&mut framer)).count();
        assert!((790..800).contains(&frames), "{frames}");
    }
}
