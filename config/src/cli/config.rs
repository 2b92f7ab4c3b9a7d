//! `herald config`: check, show and init.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;

use super::exit::{DONE, Status, UsageError};
use super::serve::Sources;
use crate::error_chain;
use crate::output::{message, print};
use crate::settings::{FileLayer, load, show, template};

/// Check, show or write a configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  herald config init herald.toml && herald config check")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validate the configuration, and list everything that is wrong with it
    #[command(after_help = "Example:\n  herald config check --config herald.toml --set storage.path=/var/lib/herald")]
    Check(Sources),
    /// Print the effective configuration as TOML, with where each value comes from; secrets are hidden
    #[command(after_help = "Example:\n  HERALD_STORAGE__DURABILITY=interval herald config show")]
    Show(Sources),
    /// Write a herald.toml that has every key with its default and says what it means
    #[command(after_help = "Examples:\n  herald config init                  to standard output\n  \
                            herald config init herald.toml      to a new file\n  \
                            herald config init --force herald.toml")]
    Init {
        /// The file to write; without it, standard output
        path: Option<PathBuf>,
        /// Overwrite the file if it is there
        #[arg(long, requires = "path")]
        force: bool,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<Status> {
    match args.command {
        Command::Check(sources) => {
            let inputs = sources.inputs();
            let loaded = load(&inputs)?;
            for transport in &loaded.settings.transports {
                let key = format!("transports.{}.tls", transport.kind);
                transport
                    .config
                    .check_files()
                    .map_err(|error| UsageError(format!("{key}: {}", error_chain(&error))))?;
            }
            let what = match &inputs.file {
                FileLayer::Named(path) => path.display().to_string(),
                FileLayer::IfThere(path) if path.exists() => path.display().to_string(),
                _ => "no herald.toml here, so the defaults".to_owned(),
            };
            let mut text = format!("{what}: the configuration is valid\n");
            if let Some(reason) = loaded.settings.broker.unfit_limits() {
                text.push_str(&format!("warning: {reason}\n"));
            }
            if let Some(remote) = &loaded.settings.remote {
                text.push_str(&format!("sources publish to {}", remote.address()));
                text.push_str(match loaded.settings.transports.is_empty() {
                    true => "; no broker runs here and [storage] is not used, since no transport is configured\n",
                    false => "; what clients publish to the transports here stays here\n",
                });
            }
            print(&text)?;
        }
        Command::Show(sources) => print(&show(&load(&sources.inputs())?))?,
        Command::Init { path: None, .. } => print(&template())?,
        Command::Init { path: Some(path), force } => {
            write(&path, force)?;
            message(&format!("wrote {}", path.display()));
        }
    }
    Ok(DONE)
}

fn write(path: &Path, force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    // `create_new` decides in one step: a file that appears in between is not overwritten either.
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let opened = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            anyhow::bail!("{} is there already: use --force to overwrite it", path.display());
        }
        opened => opened,
    };
    let written = opened.and_then(|mut file| file.write_all(template().as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
