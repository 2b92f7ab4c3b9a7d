//! `herald completions`: completion scripts for shells.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::exit::{DONE, Status};
use crate::output::print;

/// Print completions for a shell to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  herald completions bash > ~/.local/share/bash-completion/completions/herald")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Status> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "herald", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(DONE)
}
