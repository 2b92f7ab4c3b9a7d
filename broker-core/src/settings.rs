//! Settings that plugins declare: each key once, with its type, default, range and documentation.
//!
//! A plugin exports a [`Plugin`]: its table of [`Key`]s, and a function that turns checked values into its configuration. The
//! validation of a configuration, `herald config init`, `show` and `check`, and the reference page all read the table.
//! This module does not know where values come from: files, environment and command line belong to the crate that merges them.
//!
//! | to find | look in |
//! | --- | --- |
//! | a key: type, default, secrecy, effect of SIGHUP | [`key`] |
//! | the check of a value, and its messages | [`check`] |
//! | the conversion of checked values to a struct | [`values`] |
//! | the table and constructor that a plugin exports | [`plugin`] |
//! | keys that every storage has; [`Durability`], [`OnDamage`] | [`storage`] |
//! | keys that listeners share | [`listener`] |
//! | keys that sources share; [`Priority`], [`OnMissing`] | [`source`] |
//! | strings that logs must not show | [`secret`] |
//! | quoting, lists of words, suggestions in messages | [`text`] |
//!
//! # Invariants
//!
//! - A default and a range are declared in a [`Key`] and nowhere else; `Default` of a configuration is read from its keys.
//! - A plugin's constructor receives values that passed [`Key::check`], with every default filled in. It checks only their meaning:
//!   whether a URL parses, whether two keys fit together.

pub mod check;
pub mod key;
pub mod listener;
pub mod plugin;
pub mod secret;
pub mod source;
pub mod storage;
pub mod text;
pub mod values;

pub use key::{Key, Presence, Preset, Secret, Shape};
pub use plugin::{MadeSource, Plugin, SourceConfig, SourceStats, Start, StorageConfig, TransportConfig};
pub use secret::{SecretString, shown_url};
pub use source::{OnMissing, Priority};
pub use storage::{Durability, OnDamage};
pub use values::{Problem, Values, defaults, from_defaults, read};
