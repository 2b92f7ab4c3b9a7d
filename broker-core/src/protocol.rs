//! The line protocol: bytes to lines, lines to commands, and the texts of all replies. Pure: no I/O and no state but a line's.
//!
//! | to find | look in |
//! | --- | --- |
//! | line endings, limits, telnet's control bytes | [`framer`] |
//! | clients that speak HTTP or TLS | [`foreign`] |
//! | a line's command and its arguments; the right it needs | [`command`] |
//! | the JSON of a published event | [`event`] |
//! | the texts of replies | [`reply`], [`help`] |

pub mod command;
pub mod event;
pub mod foreign;
pub mod framer;
pub mod help;
pub mod reply;
