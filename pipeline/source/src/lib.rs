//! The code that all sources share: it maps a feed's events to broker events and publishes them together with their cursor.
//!
//! | module | responsibility |
//! | --- | --- |
//! | [`mapping`] | turns a feed's event into a broker event, by the configured rules |
//! | [`settings`] | turns the keys that all sources share into those rules |
//! | [`publishing`] | hands events and their cursor to the broker, and retries until each is accepted or finally refused |

pub mod mapping;
pub mod publishing;
pub mod settings;

pub use publishing::{Publishing, SourceCounters};
