//! Telnet's control bytes: which of them are data, which edit the line that is being typed, and which want an answer.

use bytes::{BufMut as _, BytesMut};

/// "Interpret as command".
const IAC: u8 = 0xff;

const SE: u8 = 240;
const BRK: u8 = 243;
const IP: u8 = 244;
const AYT: u8 = 246;
const EC: u8 = 247;
const EL: u8 = 248;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;

/// The lowest code of a telnet command, EOF.
const FIRST: u8 = 236;

/// The option that a client uses to find out when its interrupt has been handled. It shows nothing until it is answered.
const TIMING_MARK: u8 = 6;

/// The bytes after which a subnegotiation is taken for stray bytes, and the line goes on. Real ones are far shorter. Without
/// this bound two stray bytes would swallow every command that follows.
const MAX_SUBNEGOTIATION: u16 = 1024;

/// The position within a telnet command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Data,
    /// After an IAC.
    Command,
    /// After WILL, WONT, DO or DONT, which it holds: the option follows.
    Option(u8),
    /// In a subnegotiation, which IAC SE ends, after this many bytes.
    Sub(u16),
    /// After an IAC in a subnegotiation of this many bytes.
    SubCommand(u16),
}

/// The effect of one byte on the line that is being typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// None: it belongs to a command.
    None,
    /// The byte belongs to the line. A NUL after a CR comes as LF.
    Byte(u8),
    /// Both bytes belong to the line: the IAC before this one was no command.
    Stray([u8; 2]),
    /// The line's last character is erased.
    EraseCharacter,
    /// The line is erased.
    EraseLine,
}

/// What telnet commands want in reply.
#[derive(Debug, Default)]
pub struct Answers {
    /// Refused options and answered timing marks. Not a line: it may be sent between any two.
    pub negotiation: BytesMut,
    /// The number of times the client asked whether anything is there.
    pub pongs: u32,
}

/// Takes telnet commands out of a stream, wherever the reads divide it.
#[derive(Debug, Default)]
pub(super) struct Telnet {
    state: State,
    /// Whether the last byte of data was a CR, whose NUL may follow.
    after_cr: bool,
    answers: Answers,
    /// The options that were refused, those of WILL and those of DO: each is answered once, or two ends could go on
    /// indefinitely. Most clients negotiate nothing.
    refused: Option<Box<[[bool; 256]; 2]>>,
}

impl Telnet {
    /// Whether `input` is data alone, which needs no [`Telnet::step`].
    pub(super) fn is_plain(&mut self, input: &[u8]) -> bool {
        let plain = self.state == State::Data && memchr::memchr2(IAC, 0, input).is_none();
        if plain && let Some(last) = input.last() {
            self.after_cr = *last == b'\r';
        }
        plain
    }

    /// Takes the next byte.
    pub(super) fn step(&mut self, byte: u8) -> Effect {
        let mut effect = Effect::None;
        self.state = match (self.state, byte) {
            (State::Data, IAC) => State::Command,
            (State::Data, _) => {
                effect = Effect::Byte(self.data(byte));
                State::Data
            }
            (State::Command, SB) => State::Sub(0),
            (State::Command, WILL..=DONT) => State::Option(byte),
            (State::Command, 0..FIRST) => {
                // Not telnet. Both bytes stay, so the line is not UTF-8. Removing them could remove the line's ending.
                self.after_cr = false;
                effect = Effect::Stray([IAC, self.data(byte)]);
                State::Data
            }
            (State::Command, _) => {
                match byte {
                    IP | BRK | EL => effect = Effect::EraseLine,
                    EC => effect = Effect::EraseCharacter,
                    AYT => self.answers.pongs += 1,
                    // IAC IAC stands for a byte 0xFF, which does not occur in UTF-8.
                    _ => {}
                }
                State::Data
            }
            (State::Option(verb), option) => {
                self.negotiate(verb, option);
                State::Data
            }
            (State::SubCommand(_), SE) => State::Data,
            (State::Sub(MAX_SUBNEGOTIATION..) | State::SubCommand(MAX_SUBNEGOTIATION..), _) => State::Data,
            (State::Sub(len), IAC) => State::SubCommand(len + 1),
            (State::Sub(len) | State::SubCommand(len), _) => State::Sub(len + 1),
        };
        effect
    }

    fn data(&mut self, byte: u8) -> u8 {
        let ends = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == 0;
        if ends { b'\n' } else { byte }
    }

    fn negotiate(&mut self, verb: u8, option: u8) {
        let (answer, row) = match (verb, option) {
            (DO, TIMING_MARK) => {
                self.answers.negotiation.put_slice(&[IAC, WILL, TIMING_MARK]);
                return;
            }
            (DO, _) => (WONT, 1),
            (WILL, _) => (DONT, 0),
            _ => return,
        };
        let refused = self.refused.get_or_insert_with(|| Box::new([[false; 256]; 2]));
        if !std::mem::replace(&mut refused[row][usize::from(option)], true) {
            self.answers.negotiation.put_slice(&[IAC, answer, option]);
        }
    }

    pub(super) fn has_answers(&self) -> bool {
        self.answers.pongs > 0 || !self.answers.negotiation.is_empty()
    }

    /// The answers that are due.
    pub(super) fn take_answers(&mut self) -> Option<Answers> {
        self.has_answers().then(|| std::mem::take(&mut self.answers))
    }
}
