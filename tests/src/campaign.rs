//! Crash campaigns: the broker is loaded and crashed at random moments, repeatedly on the same data, and every event is checked
//! against the confirmations of its publisher and the actions of its consumers.
//!
//! | to find | look in |
//! | --- | --- |
//! | the settings of a campaign | [`Settings`] |
//! | the rounds | `rounds` |
//! | the clients that load the broker | `publisher`, `consumer` |
//! | the checks of each event, and of all events together | `history`, `order`, `tally` |
//! | the checks of a broker without load | `taking` |
//! | events whose content can be verified | `event` |
//! | the results | [`Report`] |
//!
//! These checks are made after each crash or during the campaign:
//!
//! - confirmed = acknowledged + dead-lettered + still waiting, for each subscription: approximately after each start, by the broker's
//!   own figures, and event by event every 25 rounds and at the end;
//! - an event does not come back after its acknowledgement was answered;
//! - an event is delivered with its published bytes, to one connection of a shared subscription at a time;
//! - an event is not delivered before its delay is over, whether it was published or given back with it, restarts included;
//! - `redelivered` counts every answered `nack`, and never decreases;
//! - without publishers, events arrive in the order of priority, and within a priority in the order of publication;
//! - durable subscriptions exist after a crash, and removed ones do not;
//! - an orderly stop loses nothing, even if power fails after it;
//! - the storage freed space during the campaign.
//!
//! After a power cut at `always` ([`crate::power_cut`]) the same holds, except for client actions that no sync covers yet: an answered
//! acknowledgement, `nack`, or creation or removal of a subscription may be undone, unless an event sent after the answer was confirmed
//! before the cut.

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
