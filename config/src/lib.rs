//! The configuration of Herald, the assembly of a broker, and the command line of its binary. The one crate that sees every
//! plugin.
//!
//! | to find | look in |
//! | --- | --- |
//! | `herald.toml`, environment, `--set`: layers, checks, errors | [`settings`] |
//! | the meaning of the values | [`validate`] |
//! | the plugins of this build | [`registry`] |
//! | from settings to a running broker, and its orderly stop | [`assembly`] |
//! | signals | [`signals`] |
//! | what SIGHUP applies | `reload.rs` |
//! | logging, and its reload | [`logging`] |
//! | the limit on open files | [`limits`] |
//! | output, and a reader that goes away | [`output`] |
//! | the command line, a file for each subcommand | [`cli`] |
//!
//! # What others may rely on
//!
//! - Every setting is either applied or refused; none is accepted and ignored.
//! - A listener that is ready is logged as `listening`, with its name and the address that it is bound to.
//! - Data goes to standard output, everything else to standard error; the exit status is 0, 1 or 2 as [`cli::exit`] says.

pub mod assembly;
pub mod cli;
pub mod limits;
pub mod logging;
pub mod output;
pub mod registry;
mod reload;
pub mod settings;
pub mod signals;
pub mod validate;

pub use broker_core::error_chain;
