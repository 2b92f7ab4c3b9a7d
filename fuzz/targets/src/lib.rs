//! The fuzz targets. Each is a function that takes any bytes and panics if a required property does not hold.
//!
//! The libFuzzer binaries in `fuzz/fuzz_targets` call these, and so does the replay of the corpora, an ordinary test.
//!
//! | target | what its bytes are | what must hold |
//! | --- | --- | --- |
//! | [`lines`] | what a client sends | the same lines however they come in pieces; bounded memory; telnet's commands are taken out |
//! | [`command`] | one line | what is read of it by a second, naive reading; errors are one short line |
//! | [`event`] | the JSON of a published event | accepted, refused and encoded as a model of the rules says |
//! | [`session`] | what three connections send, and when they come and go | every line that they get is one of the protocol's, and in order |
//! | [`websocket`] | what a WebSocket's client sends, the request included | what comes back are whole messages, and a close code that is documented |
//! | [`sse`] | an event stream | the events of the standard's algorithm, however they come in pieces; limits; the last event id |
//! | [`recovery`] | the files of a JSON log | the same state each time; checking, repairing and opening agree |
//! | [`configuration`] | a `herald.toml` | an error, or settings that survive being shown and read again |

pub mod command;
pub mod configuration;
pub mod event;
pub mod lines;
pub mod recovery;
pub mod session;
pub mod sse;
pub mod websocket;

/// A byte that text does not have. What it means in an input is the target's business: here a piece ends, say.
pub const MARK: u8 = 0x10;

/// A target: panics if a required property does not hold for this input.
pub type Run = fn(&[u8]);

/// The names of the targets, which are those of their folders of inputs, and what they run.
pub const TARGETS: &[(&str, Run)] = &[
    ("command", command::run),
    ("configuration", configuration::run),
    ("event", event::run),
    ("lines", lines::run),
    ("recovery", recovery::run),
    ("session", session::run),
    ("sse", sse::run),
    ("websocket", websocket::run),
];

/// `data` in the pieces that [`MARK`]s cut it into, without these.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    data.split(|byte| *byte == MARK).collect()
}
