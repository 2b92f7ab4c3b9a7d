//! The names known to the writing thread, with their numbers, and the next free numbers.

use std::collections::HashMap;

use backend_embedded::Topics;

use crate::record::Numbers;

/// A source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) number: u32,
    /// The number of parts of its cursor beyond the first value.
    pub(crate) parts: u16,
}

/// The writing thread's table of names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The number of the latest group of batches.
    pub(crate) group: u64,
    /// The next free numbers.
    pub(crate) numbers: Numbers,
    pub(crate) topics: Topics<u32>,
    pub(crate) sources: HashMap<String, Source>,
    /// Whether any event was ever stored in parts. If not, releasing an event need not look for its parts.
    pub(crate) has_parts: bool,
}
