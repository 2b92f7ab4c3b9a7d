//! Bytes to lines, in bounded memory however they are split.

use bytes::{Buf, Bytes, BytesMut};

/// Telnet's "interpret as command".
const IAC: u8 = 0xff;

/// What stands between two line endings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A line without its ending, valid UTF-8, and without leading and trailing blanks.
    Line(Bytes),
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
    buffer: BytesMut,
    /// The buffer is part of what was read, and pins the whole of it.
    borrowed: bool,
    /// So much of the buffer holds no line feed.
    scanned: usize,
    /// The rest of a line that was too long is being skipped.
    skipping: bool,
    telnet: Telnet,
}

/// Blanks separate words and are ignored at a line's ends. A CR counts, since telnet's bare return sends one.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

impl Framer {
    /// Lines may have `limit` bytes, the ending not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: BytesMut::new(), borrowed: false, scanned: 0, skipping: false, telnet: Telnet::Data }
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
        self.buffer.len()
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
        if self.buffer.is_empty() {
            // The common case: whole lines, which become slices of what was read.
            self.buffer = input.split();
            self.borrowed = true;
            self.scanned = 0;
        } else {
            self.buffer.extend_from_slice(input);
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
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
                self.scanned = self.buffer.len();
                // One byte more than the limit may be the CR of the ending.
                let line = self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer);
                if line.len() > self.limit {
                    self.buffer = BytesMut::new();
                    self.borrowed = false;
                    self.scanned = 0;
                    self.skipping = true;
                    return Some(Frame::TooLong);
                }
                if self.borrowed {
                    // A line that waits for its end keeps no more than itself, and an idle connection keeps nothing.
                    self.buffer = BytesMut::from(&self.buffer[..]);
                    self.borrowed = false;
                }
                return None;
            };
            let mut line = self.buffer.split_to(self.scanned + at + 1);
            self.scanned = 0;
            line.truncate(line.len() - 1);
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.len() > self.limit {
                return Some(Frame::TooLong);
            }
            let start = line.iter().position(|byte| !is_blank(*byte)).unwrap_or(line.len());
            let end = line.iter().rposition(|byte| !is_blank(*byte)).map_or(start, |at| at + 1);
            if start == end {
                continue;
            }
            line.truncate(end);
            line.advance(start);
            let valid = std::str::from_utf8(&line).is_ok();
            return Some(if valid { Frame::Line(line.freeze()) } else { Frame::NotUtf8 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(limit: usize, pieces: &[&[u8]]) -> Vec<Frame> {
        let mut framer = Framer::new(limit);
        let mut frames = Vec::new();
        for piece in pieces {
            framer.push(&mut BytesMut::from(*piece));
            while let Some(frame) = framer.next_frame() {
                frames.push(frame);
            }
        }
        frames
    }

    fn line(text: &str) -> Frame {
        Frame::Line(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// Every way to cut `bytes` in two, and one byte at a time.
    fn however_split(limit: usize, bytes: &[u8], expected: &[Frame]) {
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
            &[line("1234"), line("1234"), Frame::TooLong, Frame::TooLong, line("ab")],
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
        however_split(100, b"a\xc3\n\xc3\xa4\n\x80\n", &[Frame::NotUtf8, line("ä"), Frame::NotUtf8]);
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
                frames.extend(std::iter::from_fn(|| framer.next_frame()));
            }
            assert_eq!(frames, [Frame::NotUtf8, Frame::Line(Bytes::from_static(b"ping"))], "cut at {cut}");
        }
    }

    #[test]
    fn a_subnegotiation_without_end_is_given_up() {
        let mut framer = Framer::new(99);
        framer.push(&mut BytesMut::from(&b"\xff\xfa"[..]));
        framer.push(&mut BytesMut::from("ping\n".repeat(1000).as_bytes()));
        let frames = std::iter::from_fn(|| framer.next_frame()).count();
        assert!((790..800).contains(&frames), "{frames}");
    }
}
