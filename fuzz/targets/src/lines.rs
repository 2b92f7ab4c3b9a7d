//! The framer: lines, however they come in pieces.
//!
//! The first byte is the limit of a line; a [`MARK`](crate::MARK) in the rest is where one piece ends and the next begins.

use broker_core::protocol::framer::{Frame, Framer};
use bytes::BytesMut;

/// Telnet's "interpret as command".
const IAC: u8 = 0xff;

/// Telnet commands that are whole, and edit nothing: none may leave a trace.
const COMMANDS: [&[u8]; 4] = [b"\xff\xf6", b"\xff\xfd\x06", b"\xff\xfa\x18\x00xterm\n\xff\xff\xff\xf0", b"\xff\xff"];

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((limit, rest)) = data.split_first() else { return };
    let limit = usize::from(*limit);
    let pieces = crate::pieces(rest);
    let whole = pieces.concat();
    let found = frames(limit, [&whole[..]]);
    assert_eq!(frames(limit, pieces.iter().copied()), found, "in the pieces of the input");
    assert_eq!(frames(limit, whole.chunks(1)), found, "byte by byte");
    for frame in &found {
        if let Said::Line(text) = frame {
            assert!(text.len() <= limit, "a line is within its limit");
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            assert_eq!(text.trim_matches([' ', '\t', '\r']), text, "no blanks around it");
        }
    }
    if !whole.contains(&IAC) {
        assert_eq!(found, naive(limit, &whole));
        let mut commands = COMMANDS.iter().cycle();
        let with_commands: Vec<&[u8]> =
            pieces.iter().flat_map(|piece| [*piece, commands.next().expect("it is a cycle")]).collect();
        assert_eq!(frames(limit, [&with_commands.concat()[..]]), found, "telnet's commands are taken out");
        assert_eq!(frames(limit, with_commands), found, "telnet's commands are taken out, in pieces");
    }
}

/// A frame without what it borrows.
#[derive(Debug, PartialEq)]
enum Said {
    Line(String),
    TooLong,
    NotUtf8,
}

/// The framer's output for input in pieces.
fn frames<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Said> {
    let mut framer = Framer::new(limit);
    let mut frames = Vec::new();
    for piece in pieces {
        let mut piece = BytesMut::from(piece);
        while !piece.is_empty() {
            framer.push(&mut piece);
            while let Some(frame) = framer.next_frame() {
                frames.push(match frame {
                    Frame::Line(line) => Said::Line(line.to_owned()),
                    Frame::TooLong => Said::TooLong,
                    Frame::NotUtf8 => Said::NotUtf8,
                });
            }
            framer.take_answers();
        }
        // The CR of the ending may wait for its LF.
        assert!(framer.held() <= limit + 1, "{} bytes are held of a line of at most {limit}", framer.held());
    }
    frames
}

/// The same of bytes without telnet's commands, with no thought for memory.
fn naive(limit: usize, bytes: &[u8]) -> Vec<Said> {
    let mut ended = bytes.to_vec();
    for at in 1..ended.len() {
        if ended[at] == 0 && ended[at - 1] == b'\r' {
            ended[at] = b'\n';
        }
    }
    let mut lines: Vec<&[u8]> = ended.split(|byte| *byte == b'\n').collect();
    let unfinished = lines.pop().unwrap_or_default();
    let mut frames = Vec::new();
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > limit {
            frames.push(Said::TooLong);
            continue;
        }
        match std::str::from_utf8(line) {
            Err(_) => frames.push(Said::NotUtf8),
            Ok(text) => match text.trim_matches([' ', '\t', '\r']) {
                "" => {}
                text => frames.push(Said::Line(text.to_owned())),
            },
        }
    }
    if unfinished.strip_suffix(b"\r").unwrap_or(unfinished).len() > limit {
        frames.push(Said::TooLong);
    }
    frames
}
