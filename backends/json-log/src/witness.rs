//! What reading makes of a log, piece by piece: for those who check it and repair it. They see what a start would do because it
//! is what a start does.

use std::sync::Arc;

use broker_core::storage::{Mutation, Place, Recovery, StorageError};

use crate::catalogue::Catalogue;
use crate::files::DataFile;
use crate::format::{Frame, Header};
use crate::segment::Segment;

/// Who examines needs no mutations.
pub(crate) struct Nobody;

impl Recovery for Nobody {
    fn replay(&mut self, _mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        Ok(())
    }
}

/// What reading makes of what is there, in its order.
pub(crate) enum Seen<'a> {
    /// A segment begins. `follows`: the one before it is there.
    Segment { segment: &'a Arc<Segment>, file: &'a Arc<dyn DataFile>, end: u64, follows: bool },
    /// Its header checks.
    Header(&'a Header),
    /// What names it began with has been read; with what is known from before, these are all. `whole`: its own list is.
    Catalogue { catalogue: &'a Catalogue, whole: bool },
    /// A record that is taken.
    Kept { frame: Frame, body: &'a [u8] },
    /// A line that is not.
    Bad { offset: u64, len: u64, what: &'a str },
    /// Lines are not there that should be before this byte.
    Missing { offset: u64, what: &'a str },
    /// The line before this byte is good, its ending is not.
    Ending { offset: u64 },
    /// It has been read to its end.
    End,
    /// Segments are not there that should be.
    Gone { first: u64, last: u64 },
    /// What follows the last whole batch.
    Torn { segment: &'a Arc<Segment>, file: &'a dyn DataFile, offset: u64, len: u64 },
}

/// Sees what reading makes of a log.
pub(crate) trait Witness {
    /// Takes note of it.
    fn see(&mut self, seen: Seen<'_>) -> Result<(), StorageError>;
}
