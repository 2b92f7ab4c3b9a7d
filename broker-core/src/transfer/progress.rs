//! The progress of an import, committed with what it covers as the cursor of a source with a reserved name.

use serde::{Deserialize, Serialize};

use crate::storage::{Mutation, Place, Recovery, StorageError, StorageErrorKind};

/// The reserved name under which an import's progress is stored among the cursors of sources. It is never exported, and no
/// source can have it.
pub const IMPORT_CURSOR: &str = "herald:import";

/// The progress of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The number of lines whose contents are stored.
    pub lines: u64,
    /// The checksum of these lines, endings included.
    pub crc32: u32,
    /// Whether the file's last line has been reached, and has confirmed counts and checksum.
    pub finished: bool,
}

impl Progress {
    /// The mutation that stores it.
    #[must_use]
    pub fn to_mutation(&self) -> Mutation {
        let value = serde_json::to_string(self).unwrap_or_default();
        Mutation::Cursor { source: IMPORT_CURSOR.to_owned(), value }
    }

    /// Parses the cursor's value. One that this release does not understand counts as unfinished, and cannot be resumed.
    pub(crate) fn parse(value: &str) -> Self {
        serde_json::from_str(value).unwrap_or(Self { lines: 0, crc32: 0, finished: false })
    }

    /// The error of opening a storage that holds an unfinished import.
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

/// Determines, during recovery, whether a storage can be imported into.
#[derive(Debug, Default)]
pub struct Contents {
    /// The progress of an import, finished or not.
    pub import: Option<Progress>,
    /// Whether the storage holds anything else.
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
