//! Lets the check and the repair observe how recovery takes each piece of a log. Because they observe the same code that runs at
//! startup, they see exactly what a start would do.

use std::sync::Arc;

use broker_core::storage::{Mutation, Place, Recovery, StorageError};
use durable_files::DataFile;

use crate::catalogue::Catalogue;
use crate::format::{Frame, Header};
use crate::segment::Segment;

/// Drops the mutations of a log that is only being examined.
pub(crate) struct DiscardMutations;

impl Recovery for DiscardMutations {
    fn replay(&mut self, _mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        Ok(())
    }
}

/// A piece of the log. Observations come in the order of the log.
pub(crate) enum Observed<'a> {
    /// A segment begins. `follows`: its predecessor exists.
    Segment { segment: &'a Arc<Segment>, file: &'a Arc<dyn DataFile>, end: u64, follows: bool },
    /// Its header is valid.
    Header(&'a Header),
    /// Its catalogue has been read. `catalogue` is the state after it, including earlier segments. `whole`: header and catalogue
    /// are complete.
    Catalogue { catalogue: &'a Catalogue, whole: bool },
    /// A valid record.
    Kept { frame: Frame, body: &'a [u8] },
    /// A bad line.
    Bad { offset: u64, len: u64, what: &'a str },
    /// Lines are missing before this byte.
    Missing { offset: u64, what: &'a str },
    /// The line before this byte is valid, but its line ending is damaged.
    Ending { offset: u64 },
    /// The segment has been read to its end.
    End,
    /// Segments are missing.
    Gone { first: u64, last: u64 },
    /// The bytes after the last whole batch.
    Torn { segment: &'a Arc<Segment>, file: &'a dyn DataFile, offset: u64, len: u64 },
}

/// Observes a pass over a log.
pub(crate) trait Observer {
    /// Handles the next piece.
    fn observe(&mut self, observed: Observed<'_>) -> Result<(), StorageError>;
}
