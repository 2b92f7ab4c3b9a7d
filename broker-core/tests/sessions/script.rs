//! A script: settings and steps. Each step is complete in itself, so that any of them can be removed to shrink the script.

use std::fmt;

use broker_core::policy::TopicPolicy;

/// One step. A step of a connection that is not open has no effect.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A connection opens.
    Connect(usize),
    /// A connection sends lines, cut into pieces of these sizes in turn.
    Send(usize, Vec<String>, Vec<usize>),
    /// A connection drops in the middle of a line.
    Lose(usize),
    /// Time passes, in milliseconds.
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

/// A broker's shards, the policy of all its topics, and the steps.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) shards: usize,
    pub(crate) policy: TopicPolicy,
    /// Whether no event stays in memory, so that each is read back before it is delivered.
    pub(crate) forgets: bool,
    /// The turns until a batch is written, and until it is durable.
    pub(crate) lag: (usize, usize),
    pub(crate) steps: Vec<Step>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} shards, forgets: {}, lag: {:?}, {:?}", self.shards, self.forgets, self.lag, self.policy)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

/// A placeholder for the bytes that telnet sends on Ctrl-C.
pub(crate) const NO_OPERATION: char = '\u{f8ff}';

/// A placeholder for a byte that is not UTF-8.
pub(crate) const NO_TEXT: char = '\u{f8fe}';

/// The longest line.
pub(crate) const MAX_LINE: usize = 300;

/// The bytes of lines, ended alternately by LF and CRLF.
pub(crate) fn bytes(lines: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (line, end) in lines.iter().zip(["\r\n", "\n"].iter().cycle()) {
        for char in line.chars() {
            match char {
                NO_OPERATION => bytes.extend([0xff, 0xf1]),
                NO_TEXT => bytes.push(0xc3),
                _ => bytes.extend(char.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        bytes.extend(end.bytes());
    }
    bytes
}

/// The number of connections.
pub(crate) const CONNECTIONS: usize = 4;
