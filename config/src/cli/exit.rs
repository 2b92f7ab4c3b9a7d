//! Exit statuses: 0 done, 1 failed, 2 wrong usage or configuration, 141 when the reader of standard output has gone.

use std::process::ExitCode;

use crate::output::{OutputError, message};
use crate::settings::SettingsError;

/// The exit status of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(u8);

/// Done.
pub const DONE: Status = Status(0);
/// Failed.
pub const FAILED: Status = Status(1);
/// Wrong usage or configuration.
pub const USAGE: Status = Status(2);
/// Standard output was closed: 128 plus the number of SIGPIPE, the status that shells give a process ended by that signal.
pub const CLOSED: Status = Status(141);

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.0)
    }
}

/// A request that is wrong as it was written, whatever the state of the broker.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Prints the error, if there is one, and returns the exit status.
pub(crate) fn report(result: anyhow::Result<Status>) -> Status {
    let error = match result {
        Ok(status) => return status,
        Err(error) => error,
    };
    if matches!(error.downcast_ref(), Some(OutputError::Closed)) {
        return CLOSED;
    }
    message(&format!("herald: {}", crate::error_chain(&*error)));
    status_of(&error)
}

fn status_of(error: &anyhow::Error) -> Status {
    let usage = error.chain().any(|cause| cause.is::<UsageError>() || cause.is::<SettingsError>());
    if usage { USAGE } else { FAILED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_whose_mistake_it_was() {
        assert_eq!(status_of(&UsageError("x".to_owned()).into()), USAGE);
        assert_eq!(status_of(&SettingsError { problems: Vec::new() }.into()), USAGE);
        assert_eq!(status_of(&anyhow::Error::from(UsageError("x".to_owned())).context("more")), USAGE);
        assert_eq!(status_of(&anyhow::anyhow!("x")), FAILED);
        assert_eq!(report(Err(OutputError::Closed.into())), CLOSED);
    }
}
