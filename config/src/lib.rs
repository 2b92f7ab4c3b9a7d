//! The configuration of Herald, its assembly, and the command line of its binary. The one crate that sees every plugin.
//!
//! | to find | look in |
//! | --- | --- |
//! | `herald.toml`, environment, `--set`: layers, checks, errors | [`settings`] |
//! | what the values mean | [`validate`] |
//! | which plugins this build has | [`registry`] |
//! | settings to a running broker, and its orderly end | [`assembly`] |
//! | signals | [`signals`] |
//! | logging, and its reload | [`logging`] |
//! | open files | [`limits`] |
//! | what is printed, and the end of a pipe | [`output`] |
//! | the command line, a file for each subcommand | [`cli`] |
//!
//! # What others may rely on
//!
//! - Every setting is either in force or refused; none is accepted and ignored.
//! - A listener that is ready is logged as `listening`, with its name and the address that it really has.
//! - Data goes to standard output, everything else to standard error; the exit status is 0, 1 or 2 as [`cli::exit`] says.

pub mod assembly;
pub mod cli;
pub mod limits;
#[cfg(all(feature = "pipeline", feature = "tcp"))]
mod live;
pub mod logging;
pub mod output;
pub mod registry;
pub mod secret;
pub mod settings;
pub mod signals;
pub mod validate;

/// An error's text with those of its causes: `cannot open x: permission denied`.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
