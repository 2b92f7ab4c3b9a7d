//! (being written)

/// What sessions need to know of the configuration.
#[derive(Debug)]
pub struct SessionSettings {}
