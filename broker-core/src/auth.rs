//! Authentication: tokens, their rights, and the throttling of failed attempts.
//!
//! A token is compared in constant time with every known token. It is kept in memory only: no `Debug` shows it, no log has it.
//! The right that each command needs is in [`crate::protocol::command`]; [`crate::session`] checks it.

mod attempts;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tokio::sync::watch;
use tokio::time::Instant;

pub use attempts::Attempt;
use attempts::Attempts;

use crate::name::TopicName;
use crate::policy::glob;

/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 512;

/// The rights of a token's bearer. Patterns are globs in which `*` stands for any characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// The token's name, for logs.
    pub name: String,
    /// Patterns of the topics that it may publish to.
    pub publish: Vec<String>,
    /// Patterns of the topics that it may subscribe to.
    pub subscribe: Vec<String>,
    /// Whether it is an operator's: it sees every topic's statistics, and may peek, purge and redrive where it may subscribe.
    pub admin: bool,
}

impl Rights {
    /// Whether the bearer may publish to `topic`.
    #[must_use]
    pub fn may_publish(&self, topic: &TopicName) -> bool {
        self.publish.iter().any(|pattern| glob(pattern, topic.as_str()))
    }

    /// Whether the bearer may subscribe to `topic` and remove subscriptions of it.
    #[must_use]
    pub fn may_subscribe(&self, topic: &TopicName) -> bool {
        self.subscribe.iter().any(|pattern| glob(pattern, topic.as_str()))
    }
}

/// A token, padded to a fixed length, so that a comparison takes the same time whatever it holds.
#[derive(Clone)]
struct Secret {
    bytes: Box<[u8; MAX_TOKEN_BYTES]>,
    length: u64,
}

impl Secret {
    /// Returns `None` if the token is empty or too long.
    fn new(token: &str) -> Option<Self> {
        let mut bytes = Box::new([0; MAX_TOKEN_BYTES]);
        bytes.get_mut(..token.len()).filter(|room| !room.is_empty())?.copy_from_slice(token.as_bytes());
        Some(Self { bytes, length: token.len() as u64 })
    }

    fn is(&self, other: &Self) -> Choice {
        self.bytes[..].ct_eq(&other.bytes[..]) & self.length.ct_eq(&other.length)
    }
}

/// A token and its rights.
pub struct Grant {
    secret: Secret,
    rights: Rights,
}

impl Grant {
    /// The bearer's rights.
    #[must_use]
    pub fn rights(&self) -> &Rights {
        &self.rights
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grant").field(&self.rights).finish()
    }
}

/// All tokens. They can be replaced while connections are open. Without any, every client may do everything.
#[derive(Debug)]
pub struct Tokens {
    current: watch::Sender<Arc<[Arc<Grant>]>>,
    attempts: Mutex<Attempts>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new([])
    }
}

impl Tokens {
    /// Creates the set from tokens and their rights. A token that is empty or longer than [`MAX_TOKEN_BYTES`] never matches.
    pub fn new<'a>(tokens: impl IntoIterator<Item = (&'a str, Rights)>) -> Self {
        Self { current: watch::Sender::new(grants(tokens)), attempts: Mutex::default() }
    }

    /// Replaces all tokens. Sessions learn of it by [`Tokens::watch`].
    pub fn replace<'a>(&self, tokens: impl IntoIterator<Item = (&'a str, Rights)>) {
        self.current.send_replace(grants(tokens));
    }

    /// Whether clients have to give a token.
    #[must_use]
    pub fn are_required(&self) -> bool {
        !self.current.borrow().is_empty()
    }

    /// Notifies of replacements.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<[Arc<Grant>]>> {
        self.current.subscribe()
    }

    /// The grant of `token`, if it is a known one. Takes the same time whatever the token is.
    #[must_use]
    pub fn check(&self, token: &str) -> Option<Arc<Grant>> {
        let candidate = Secret::new(token)?;
        let grants = Arc::clone(&self.current.borrow());
        let mut found = u64::MAX;
        for (index, grant) in (0_u64..).zip(grants.iter()) {
            found.conditional_assign(&index, grant.secret.is(&candidate));
        }
        grants.get(usize::try_from(found).ok()?).cloned()
    }

    /// Whether the grant's token still exists with the same rights.
    pub(crate) fn still_has(&self, grant: &Grant) -> bool {
        let grants = Arc::clone(&self.current.borrow());
        grants.iter().any(|other| bool::from(other.secret.is(&grant.secret)) && other.rights == grant.rights)
    }

    /// Schedules the check of a token from this address.
    #[must_use]
    pub fn attempt(&self, from: IpAddr, now: Instant) -> Attempt {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).attempt(from, now)
    }

    /// Records a wrong token from this address.
    pub fn failed(&self, from: IpAddr, now: Instant) {
        let failures = self.attempts.lock().unwrap_or_else(PoisonError::into_inner).failed(from, now);
        // At powers of two only, so that guessing does not fill the log.
        if failures.is_power_of_two() {
            tracing::warn!(%from, failures, "authentication failed; further attempts from this address have to wait");
        }
    }
}

fn grants<'a>(tokens: impl IntoIterator<Item = (&'a str, Rights)>) -> Arc<[Arc<Grant>]> {
    let grant = |(token, rights)| Some(Arc::new(Grant { secret: Secret::new(token)?, rights }));
    tokens.into_iter().filter_map(grant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(name: &str) -> Rights {
        Rights { name: name.into(), publish: vec!["a.*".into(), "b".into()], subscribe: vec!["*".into()], admin: false }
    }

    #[test]
    fn a_token_is_good_for_its_own_rights_and_nothing_else_is() {
        let long = "x".repeat(MAX_TOKEN_BYTES);
        let tokens =
            Tokens::new([("secret", rights("first")), ("secret2", rights("second")), (&long, rights("third"))]);
        let name = |token: &str| tokens.check(token).map(|grant| grant.rights().name.clone());
        assert_eq!(name("secret").as_deref(), Some("first"));
        assert_eq!(name("secret2").as_deref(), Some("second"));
        assert_eq!(name(&long).as_deref(), Some("third"));
        for wrong in ["", "secre", "secret\0", "Secret", "secret3", &long[1..], &format!("{long}x")] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn patterns_decide_about_topics() {
        let topic = |name| TopicName::new(name).unwrap();
        let rights = rights("r");
        assert!(rights.may_publish(&topic("a.x")) && rights.may_publish(&topic("b")));
        assert!(!rights.may_publish(&topic("a")) && !rights.may_publish(&topic("bb")));
        assert!(rights.may_subscribe(&topic("anything")));
    }

    #[test]
    fn debug_shows_no_token() {
        let tokens = Tokens::new([("s3cret", rights("r"))]);
        let shown = format!("{tokens:?} {:?}", tokens.check("s3cret"));
        assert!(!shown.contains("s3cret") && !shown.contains("115, 51") && shown.contains("a.*"), "{shown}");
    }

    #[test]
    fn a_grant_holds_as_long_as_nothing_of_it_changes() {
        let tokens = Tokens::new([("one", rights("one"))]);
        assert!(tokens.are_required());
        let grant = tokens.check("one").unwrap();
        tokens.replace([("two", rights("two")), ("one", rights("one"))]);
        assert!(tokens.still_has(&grant));
        tokens.replace([("one", Rights { admin: true, ..rights("one") })]);
        assert!(!tokens.still_has(&grant));
        tokens.replace([]);
        assert!(!tokens.are_required() && !tokens.still_has(&grant));
    }
}
