//! What a broker is: events, topics, subscriptions, the delivery engine, sessions, the line protocol, and the seams that
//! plugins fill. No network and no file I/O.
//!
//! | to find | look in |
//! | --- | --- |
//! | the characters a name may have; ids in memory | [`name`] |
//! | an event and its one encoding | [`event`] |
//! | dead letters: reasons, and their encoding | [`letter`] |
//! | the order of events, positions of subscriptions, redelivery: pure state machines | [`queue`] |
//! | the contract between sessions and an engine | [`engine`] |
//! | the engine over a storage: shards, turns, group commit | [`local`] |
//! | the contract between the engine and a storage | [`storage`] |
//! | lines to commands, and the texts of replies | [`protocol`] |
//! | one client: access, options, the order of replies | [`session`] |
//! | offline check and repair of a storage | [`storage::check`] |
//! | export to JSON lines, and import | [`transfer`] |
//! | the contracts of transports and sources | [`transport`], [`source`] |
//! | tokens and their rights | [`auth`] |
//! | the policies of topics | [`policy`] |
//! | a number of events and their bytes, counted together | [`tally`] |
//! | keys that plugins declare: type, default, range, documentation | [`settings`] |
//! | hash tables on an event's path | [`table`] |
//! | the wait before a retry; an error with its causes, in plain words | [`backoff`], [`mod@error_chain`], [`mod@plain_words`] |

pub mod auth;
pub mod backoff;
pub mod engine;
pub mod error_chain;
pub mod event;
pub mod letter;
pub mod local;
pub mod name;
pub mod plain_words;
pub mod policy;
pub mod protocol;
pub mod queue;
pub mod session;
pub mod settings;
pub mod source;
pub mod storage;
pub mod table;
pub mod tally;
pub mod transfer;
pub mod transport;

pub use backoff::Backoff;
pub use error_chain::error_chain;
pub use plain_words::plain_words;
