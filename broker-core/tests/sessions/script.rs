//! What happens to a broker: a policy and steps, which say everything themselves, so that any of them can be left out.

use std::fmt;

use broker_core::policy::TopicPolicy;

/// One step. What a connection does that is not open does nothing.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// It comes.
    Connect(usize),
    /// It sends lines, which are cut into pieces after so many bytes each, from the beginning again when these are used up.
    Send(usize, Vec<String>, Vec<usize>),
    /// It goes without a word, in the middle of a line.
    Lose(usize),
    /// Milliseconds.
    Pass(u64),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(at) => write!(f, "{at} connects"),
            Self::Send(at, lines, _) => write!(f, "{at} > {}", lines.join("\\n")),
            Self::Lose(at) => write!(f, "{at} is lost"),
            Self::Pass(ms) => write!(f, "{ms} ms pass"),
        }
    }
}

/// The shards of a broker, the policy of all its topics, and what happens to it.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) shards: usize,
    pub(crate) policy: TopicPolicy,
    /// No event stays in memory: each is read back before it is delivered.
    pub(crate) forgets: bool,
    /// Turns until a batch is written, and until it is safe.
    pub(crate) lag: (usize, usize),
    pub(crate) steps: Vec<Step>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} shards, forgets: {}, lag: {:?}, {:?}", self.shards, self.forgets, self.lag, self.policy)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

/// Stands for what telnet sends on Ctrl-C.
pub(crate) const INTERRUPT: char = '\u{f8ff}';

/// Stands for a byte that is no text.
pub(crate) const NO_TEXT: char = '\u{f8fe}';

/// The longest line.
pub(crate) const MAX_LINE: usize = 300;

/// The bytes of lines, ended now one way and now the other.
pub(crate) fn bytes(lines: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (line, end) in lines.iter().zip(["\r\n", "\n"].iter().cycle()) {
        for char in line.chars() {
            match char {
                INTERRUPT => bytes.extend([0xff, 0xf4]),
                NO_TEXT => bytes.push(0xc3),
                _ => bytes.extend(char.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        bytes.extend(end.bytes());
    }
    bytes
}

/// Connections that come and go.
pub(crate) const CONNECTIONS: usize = 4;
