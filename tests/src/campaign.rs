//! Crash campaigns: the broker is loaded and crashed at random moments, again and again on the same data, and every event is held
//! against what its publisher was told and what its consumers did.
//!
//! | to find | look in |
//! | --- | --- |
//! | what a campaign can be told | [`Settings`] |
//! | the rounds | `rounds` |
//! | who loads the broker | `publisher`, `consumer` |
//! | what must be true of every event, and of all together | `history`, `order`, `tally` |
//! | what is asked of a broker without load | `taking` |
//! | events whose content can be checked | `event` |
//! | what comes out of it | [`Report`] |
//!
//! After a power cut at `always` ([`crate::power_cut`]) the same holds, but for what a client did and no sync covers yet: an
//! acknowledgement, a `nack` or the making or removing of a subscription that was answered, with no event sent after the answer and
//! confirmed before the cut. It may be as if it had not been.
//!
//! What is checked, after each crash or while it goes on:
//!
//! - confirmed = acknowledged + dead-lettered + still waiting, for each subscription: roughly after each start, by the broker's own
//!   figures, and event by event every 25 rounds and in the end;
//! - an event whose acknowledgement was answered does not come back;
//! - an event is delivered with the bytes that were published, to one connection of a shared subscription at a time;
//! - not before the delay that it was published or given back with is over, restarts included;
//! - `redelivered` counts every answered `nack`, and never goes back;
//! - while nobody publishes, in the order of priority, and within a priority in the order of publication;
//! - durable subscriptions are there after a crash, and removed ones are not;
//! - an orderly stop loses nothing even if the power fails after it;
//! - the storage gave space back while all this happened.

mod consumer;
mod event;
mod history;
mod order;
mod publisher;
mod report;
mod rounds;
mod settings;
mod taking;
mod tally;

pub use report::{Report, Totals};
pub use rounds::run;
pub use settings::{Backend, Durability, Mode, Settings};
pub use tally::Tally;
