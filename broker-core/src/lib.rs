//! What a broker is: events, topics, subscriptions, the delivery engine, sessions, the line protocol, and the seams that
//! plugins fill. No network and no file I/O.
//!
//! | to find | look in |
//! | --- | --- |
//! | what a name may hold; ids in memory | [`name`] |
//! | an event and its one encoding | [`event`] |
//! | dead letters: reasons, and the encoding there and back | [`letter`] |
//! | the order of events, positions of subscriptions, redelivery: pure state machines | [`queue`] |
//! | what an engine promises to a session | [`engine`] |
//! | the engine over a storage: shards, group commit | [`local`] |
//! | what a storage promises to the engine | [`storage`] |
//! | lines to commands, outcomes to replies | [`protocol`], [`session`] |
//! | checking and repairing what a storage keeps | [`storage::check`] |
//! | everything a storage holds as JSON lines, and back | [`transfer`] |
//! | what clients connect to, what feeds the broker | [`transport`], [`source`] |
//! | tokens and their rights | [`auth`] |
//! | rules of a topic from the configuration | [`policy`] |
//! | hash tables on an event's path | [`table`] |
//! | hash tables on an event's path | [`table`] |

pub mod auth;
pub mod engine;
pub mod event;
pub mod letter;
pub mod local;
pub mod name;
pub mod policy;
pub mod protocol;
pub mod queue;
pub mod session;
pub mod source;
pub mod storage;
pub mod table;
pub mod transfer;
pub mod transport;
