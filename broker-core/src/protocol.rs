//! The line protocol: bytes to lines to commands, and everything that the broker says.
//!
//! | to find | look in |
//! | --- | --- |
//! | line endings, limits, telnet's control bytes | [`framer`] |
//! | a line's words: which command, with what | [`command`] |
//! | the JSON of a published event | [`event`] |
//! | every text that the broker sends | [`reply`], [`help`] |

pub mod command;
pub mod event;
pub mod framer;
pub mod help;
pub mod reply;
