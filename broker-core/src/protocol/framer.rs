//! Bytes to lines, in bounded memory however they are split.

use std::ops::Range;

use bytes::{Buf, BytesMut};

/// Telnet's "interpret as command".
const IAC: u8 = 0xff;

/// What stands between two line endings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line without its ending and without leading and trailing blanks.
    Line(&'a str),
    /// A line longer than the limit. It is, or is being, skipped.
    TooLong,
    /// A line that is not UTF-8.
    NotUtf8,
}

/// Where in a telnet command the stream stands. A command is taken out of the line that it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Telnet {
    #[default]
    Data,
    /// After an IAC.
    Command,
    /// After WILL, WONT, DO or DONT: the option follows.
    Option,
    /// In a subnegotiation, which ends with IAC SE, after so many bytes.
    Sub(u16),
    /// After an IAC in a subnegotiation of so many bytes.
    SubCommand(u16),
}

/// Bytes after which a subnegotiation is taken for a stray one, and the line goes on. Real ones are far shorter; without a
/// bound two stray bytes would swallow all commands that follow.
const MAX_SUBNEGOTIATION: u16 = 1024;

/// Splits a stream into lines: LF or CRLF ends one, telnet's commands are taken out.
#[derive(Debug)]
pub struct Framer {
    limit: usize,
    /// What was read, from `from` on not looked at yet.
    input: BytesMut,
    from: usize,
    /// The beginning of a line whose end has not come: no more than itself, so that it does not pin what was read with it.
    begun: BytesMut,
    /// The line that `begun` became.
    whole: BytesMut,
    /// The rest of a line that was too long is being skipped.
    skipping: bool,
    telnet: Telnet,
}

/// Where a line is.
enum Found {
    /// In the input.
    Input(Range<usize>),
    /// In what its parts were put together to.
    Whole(Range<usize>),
    TooLong,
}

/// Blanks separate words and are ignored at a line's ends. A CR counts, since telnet's bare return sends one.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

impl Framer {
    /// Lines may have `limit` bytes, the ending not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            input: BytesMut::new(),
            from: 0,
            begun: BytesMut::new(),
            whole: BytesMut::new(),
            skipping: false,
            telnet: Telnet::Data,
        }
    }

    /// How many bytes a line may have.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Another limit, from the next line on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes that it keeps: of a line whose end has not come, once [`Framer::next_frame`] has nothing more to give.
    #[must_use]
    pub fn held(&self) -> usize {
        self.input.len() - self.from + self.begun.len() + self.whole.len()
    }

    /// Takes all of `input`. What is kept of it is bounded by the limit and by the length of `input`.
    pub fn push(&mut self, input: &mut BytesMut) {
        if self.telnet != Telnet::Data || memchr::memchr(IAC, input).is_some() {
            self.take_out_commands(input);
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

    fn take_out_commands(&mut self, input: &mut BytesMut) {
        const SE: u8 = 240;
        const SB: u8 = 250;
        /// The lowest code of a telnet command: the end of a file.
        const FIRST: u8 = 236;
        if self.telnet == Telnet::Command {
            // Its IAC ended the last read; whether it belongs to the line is known only now.
            let mut whole = BytesMut::with_capacity(input.len() + 1);
            whole.extend_from_slice(&[IAC]);
            whole.extend_from_slice(input);
            *input = whole;
            self.telnet = Telnet::Data;
        }
        let mut kept = 0;
        for at in 0..input.len() {
            let byte = input[at];
            self.telnet = match (self.telnet, byte) {
                (Telnet::Data, IAC) => Telnet::Command,
                (Telnet::Data, _) => {
                    input[kept] = byte;
                    kept += 1;
                    Telnet::Data
                }
                (Telnet::Command, SB) => Telnet::Sub(0),
                (Telnet::Command, 251..=254) => Telnet::Option,
                (Telnet::Command, 0..FIRST) => {
                    // No telnet: both stay, and the line is not UTF-8. The line's end must not go with them.
                    input[kept] = IAC;
                    input[kept + 1] = byte;
                    kept += 2;
                    Telnet::Data
                }
                // IAC IAC stands for a byte 0xFF, which no UTF-8 has.
                (Telnet::Command | Telnet::Option, _) => Telnet::Data,
                (Telnet::SubCommand(_), SE) => Telnet::Data,
                (Telnet::Sub(MAX_SUBNEGOTIATION..) | Telnet::SubCommand(MAX_SUBNEGOTIATION..), _) => Telnet::Data,
                (Telnet::Sub(len), IAC) => Telnet::SubCommand(len + 1),
                (Telnet::Sub(len) | Telnet::SubCommand(len), _) => Telnet::Sub(len + 1),
            };
        }
        input.truncate(kept);
    }

    /// The next line, if it is complete. Empty lines are passed over.
    pub fn next_frame(&mut self) -> Option<Frame<'_>> {
        loop {
            let (bytes, line) = match self.find()? {
                Found::Input(line) if line.is_empty() => continue,
                Found::Whole(line) if line.is_empty() => continue,
                Found::Input(line) => (&self.input, line),
                Found::Whole(line) => (&self.whole, line),
                Found::TooLong => return Some(Frame::TooLong),
            };
            return Some(std::str::from_utf8(&bytes[line]).map_or(Frame::NotUtf8, Frame::Line));
        }
    }

    /// Looks for the next line's end. The line is without its ending and the blanks around it, and may be empty.
    fn find(&mut self) -> Option<Found> {
        let from = self.from;
        let Some(at) = memchr::memchr(b'\n', &self.input[from..]) else {
            self.begun.extend_from_slice(&self.input[from..]);
            // An idle connection keeps nothing.
            (self.input, self.from, self.whole) = (BytesMut::new(), 0, BytesMut::new());
            // One byte more than the limit may be the CR of the ending.
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

    /// What a frame says, without what it borrows.
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
            framer.push(&mut BytesMut::from(*piece));
            frames.extend(std::iter::from_fn(|| next(&mut framer)));
        }
        frames
    }

    fn line(text: &str) -> Said {
        Said::Line(text.to_owned())
    }

    /// Every way to cut `bytes` in two, and one byte at a time.
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
            b"pi\xff\xf4\xff\xfd\x06ng\r\n\xff\xfa\x18\x00xterm\n\xff\xff\xff\xf0to\xff\xfb\x01pics\n\xff\xffx\n";
        however_split(100, bytes, &[line("ping"), line("topics"), line("x")]);
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
