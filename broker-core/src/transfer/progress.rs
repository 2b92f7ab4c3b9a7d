//! How far an import is: committed with what it covers, as the cursor of a source that no configuration can name.

use serde::{Deserialize, Serialize};

use crate::storage::{Mutation, Place, Recovery, StorageError, StorageErrorKind};

/// The name under which the progress of an import is stored among the cursors of sources. Reserved: it is never handed to a
/// source, and never exported.
pub const IMPORT_CURSOR: &str = "herald:import";

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Lines of the file that are stored, with all that they say.
    pub lines: u64,
    /// The checksum of these lines with their endings.
    pub crc32: u32,
    /// Whether that is all, and count and checksum at its end were right.
    pub finished: bool,
}

impl Progress {
    /// What is stored as the cursor's value.
    #[must_use]
    pub fn to_mutation(&self) -> Mutation {
        let value = serde_json::to_string(self).unwrap_or_default();
        Mutation::Cursor { source: IMPORT_CURSOR.to_owned(), value }
    }

    /// Reads the cursor's value. One that means nothing to this release is an import that nobody can go on with: unfinished.
    pub(crate) fn parse(value: &str) -> Self {
        serde_json::from_str(value).unwrap_or(Self { lines: 0, crc32: 0, finished: false })
    }

    /// The error of whoever may not use a storage that holds only the beginning of an import.
    #[must_use]
    pub fn refusal(&self) -> StorageError {
        StorageError::new(
            StorageErrorKind::Unusable,
            format!(
                "the storage holds an import that was not finished ({} lines of the file are in it): run `herald import` with the \
                 same file again to go on, or begin with an empty data directory (storage.clean_on_start = true empties it)",
                self.lines
            ),
        )
    }
}

/// Finds out whether a storage can be imported into.
#[derive(Debug, Default)]
pub struct Contents {
    /// An import that was begun, or finished.
    pub import: Option<Progress>,
    /// Whether there is anything besides.
    pub anything: bool,
}

impl Recovery for Contents {
    fn replay(&mut self, mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        match mutation {
            Mutation::Cursor { source, value } if source == IMPORT_CURSOR => {
                self.import = Some(Progress::parse(&value));
            }
            _ => self.anything = true,
        }
        Ok(())
    }
}
