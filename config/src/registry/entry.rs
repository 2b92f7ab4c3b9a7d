//! One line of the registry, and why a plugin may be unavailable.

use broker_core::settings::text::{one_of, quoted};
use broker_core::settings::{Key, Plugin};

use super::Seam;

/// A plugin as the registry lists it, whose configuration is `C`.
pub struct Entry<C: ?Sized + 'static> {
    kind: &'static str,
    feature: &'static str,
    state: State<C>,
}

/// The availability of a plugin in this build, with the plugin itself where it is built.
pub enum State<C: ?Sized + 'static> {
    /// This build has it.
    Built(Plugin<C>),
    /// Part of the core, in every build, without keys or constructor.
    Core,
    /// Its feature is off.
    NotBuilt,
    /// No build of this version has it.
    Later,
}

/// An entry without its constructor, for lists and messages.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The name of the plugin: folder, `kind` and metric label.
    pub kind: &'static str,
    /// The feature that brings it.
    pub feature: &'static str,
    /// One line about it.
    pub doc: &'static str,
    /// Its own keys; empty unless this build has it.
    pub keys: &'static [Key],
    availability: Availability,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Availability {
    Built,
    NotBuilt,
    Later,
}

impl<C: ?Sized> Entry<C> {
    /// A plugin of this build.
    #[must_use]
    pub const fn built(kind: &'static str, feature: &'static str, plugin: Plugin<C>) -> Self {
        Self { kind, feature, state: State::Built(plugin) }
    }

    /// A plugin whose feature is off.
    #[must_use]
    pub const fn not_built(kind: &'static str, feature: &'static str) -> Self {
        Self { kind, feature, state: State::NotBuilt }
    }

    /// A part of the core that fills a seam.
    #[must_use]
    pub const fn always(kind: &'static str) -> Self {
        Self { kind, feature: kind, state: State::Core }
    }

    /// A plugin of a later version.
    #[must_use]
    pub const fn later(kind: &'static str) -> Self {
        Self { kind, feature: kind, state: State::Later }
    }

    /// The plugin called `kind`, if this build has it.
    pub(crate) fn plugin(entries: &[Self], kind: &str) -> Option<(&'static str, Plugin<C>)> {
        entries.iter().find(|entry| entry.kind == kind).and_then(|entry| match entry.state {
            State::Built(plugin) => Some((entry.kind, plugin)),
            State::Core | State::NotBuilt | State::Later => None,
        })
    }

    /// The entry without its constructor.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        let (doc, keys, availability): (_, &'static [Key], _) = match &self.state {
            State::Built(plugin) => (plugin.doc, plugin.keys, Availability::Built),
            State::Core => ("Part of the core.", &[], Availability::Built),
            State::NotBuilt => ("This build does not have it.", &[], Availability::NotBuilt),
            State::Later => ("This version does not have it yet.", &[], Availability::Later),
        };
        Kind { kind: self.kind, feature: self.feature, doc, keys, availability }
    }
}

impl Kind {
    /// Whether this build has it.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.availability == Availability::Built
    }

    /// Whether only a later version has it.
    #[must_use]
    pub fn is_later(&self) -> bool {
        self.availability == Availability::Later
    }
}

/// Why a plugin is unavailable, and how to get it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// No plugin of that kind exists in this version.
    #[error("there is no {seam} {}: expected {known}", quoted(kind))]
    Unknown {
        /// The seam.
        seam: Seam,
        /// The kind that was asked for.
        kind: String,
        /// The kinds that exist.
        known: String,
    },
    /// Its feature is off.
    #[error("this build has no \"{kind}\" {seam}: rebuild with --features {feature}")]
    NotBuilt {
        /// The seam.
        seam: Seam,
        /// The kind.
        kind: &'static str,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// Only a later version has it.
    #[error("this build has no \"{kind}\" {seam}: this version of Herald has none yet; this build has {built}")]
    Later {
        /// The seam.
        seam: Seam,
        /// The kind.
        kind: &'static str,
        /// The kinds of this build.
        built: String,
    },
}

/// Succeeds if `kind` is one of `kinds` and this build has it.
pub(super) fn find(seam: Seam, kind: &str, kinds: &[Kind]) -> Result<(), Absent> {
    let Some(found) = kinds.iter().find(|known| known.kind == kind) else {
        let known = one_of(kinds.iter().map(|known| known.kind));
        return Err(Absent::Unknown { seam, kind: kind.to_owned(), known });
    };
    match found.availability {
        Availability::Built => Ok(()),
        Availability::NotBuilt => Err(Absent::NotBuilt { seam, kind: found.kind, feature: found.feature }),
        Availability::Later => {
            let built: Vec<String> = built(kinds).into_iter().map(quoted).collect();
            let built = if built.is_empty() { "none at all".to_owned() } else { built.join(", ") };
            Err(Absent::Later { seam, kind: found.kind, built })
        }
    }
}

/// The names of the kinds that this build has.
pub(super) fn built(kinds: &[Kind]) -> Vec<&'static str> {
    kinds.iter().filter(|kind| kind.is_built()).map(|kind| kind.kind).collect()
}
