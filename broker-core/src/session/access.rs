//! The rights of one session, and the one place that checks them.

use std::sync::Arc;

use bytes::BytesMut;

use crate::auth::{Grant, Tokens};
use crate::name::TopicName;
use crate::protocol::command::Right;
use crate::protocol::reply;
use crate::table::Table;

/// Topics whose decision a session caches. A full cache is cleared.
const MAX_CACHED: usize = 256;

/// A session's rights. Matching a topic against a token's patterns is cached, since most lines name the same few topics.
#[derive(Debug)]
pub(super) struct Access {
    tokens: Arc<Tokens>,
    who: Who,
    cache: Table<TopicName, May>,
}

#[derive(Debug)]
enum Who {
    /// No token is required: everything is allowed.
    Anyone,
    /// A token is required and has not been given yet: nothing is allowed.
    Stranger,
    /// The bearer of a token.
    Bearer(Arc<Grant>),
}

#[derive(Debug, Clone, Copy)]
struct May {
    publish: bool,
    subscribe: bool,
}

/// The reason that a command is not executed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied<'a> {
    /// A token has to be given first.
    Unauthenticated,
    /// The token does not allow `verb` on `topic`.
    NotAllowed { verb: &'static str, topic: &'a TopicName },
}

impl Denied<'_> {
    /// Writes the reply.
    pub(super) fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Unauthenticated => reply::authentication_required(out),
            Self::NotAllowed { verb, topic } => reply::not_allowed(out, verb, topic),
        }
    }
}

impl Access {
    pub(super) fn new(tokens: Arc<Tokens>) -> Self {
        let who = if tokens.are_required() { Who::Stranger } else { Who::Anyone };
        Self { tokens, who, cache: Table::default() }
    }

    /// Whether a token has to be given before anything else.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self.who, Who::Stranger)
    }

    /// Whether this session's tokens are checked at all.
    pub(super) fn checks_tokens(&self) -> bool {
        !matches!(self.who, Who::Anyone)
    }

    /// The name of the accepted token.
    pub(super) fn bearer(&self) -> Option<&str> {
        match &self.who {
            Who::Bearer(grant) => Some(&grant.rights().name),
            Who::Anyone | Who::Stranger => None,
        }
    }

    /// Applies a token. A wrong one returns false and changes nothing.
    pub(super) fn authenticate(&mut self, token: &str) -> bool {
        match self.tokens.check(token) {
            Some(grant) => {
                self.who = Who::Bearer(grant);
                self.cache = Table::default();
                true
            }
            None => false,
        }
    }

    /// Whether this session's rights are unchanged after the tokens were replaced.
    pub(super) fn still_holds(&self) -> bool {
        match &self.who {
            Who::Anyone => !self.tokens.are_required(),
            // An unauthenticated client can still give a token. If tokens are no longer required, it has to connect again.
            Who::Stranger => self.tokens.are_required(),
            Who::Bearer(grant) => self.tokens.still_has(grant),
        }
    }

    /// Checks the right that a command [needs](crate::protocol::command::Command::needs).
    ///
    /// # Errors
    /// [`Denied`] if the session does not have it.
    pub(super) fn check<'a>(&mut self, right: Right<'a>) -> Result<(), Denied<'a>> {
        let is_operator = match (&self.who, right) {
            (_, Right::None) | (Who::Anyone, _) => return Ok(()),
            (Who::Stranger, _) => return Err(Denied::Unauthenticated),
            (Who::Bearer(_), Right::Authenticated) => return Ok(()),
            (Who::Bearer(grant), _) => grant.rights().admin,
        };
        let (allowed, verb, topic) = match right {
            Right::None | Right::Authenticated => return Ok(()),
            Right::Publish(topic) => (self.may(topic).publish, "publish to", topic),
            Right::Subscribe(topic) => (self.may(topic).subscribe, "subscribe to", topic),
            Right::Operate { topic, .. } if !self.may(topic).subscribe => (false, "subscribe to", topic),
            Right::Operate { topic, verb } => (is_operator, verb, topic),
            Right::See(topic) => (self.may_see(topic.as_str()), "subscribe to", topic),
        };
        if allowed { Ok(()) } else { Err(Denied::NotAllowed { verb, topic }) }
    }

    /// Whether the topic's statistics may be seen. Answers about all topics are filtered by it.
    pub(super) fn may_see(&self, topic: &str) -> bool {
        match &self.who {
            Who::Anyone => true,
            Who::Stranger => false,
            Who::Bearer(grant) if grant.rights().admin => true,
            Who::Bearer(grant) => TopicName::new(topic)
                .is_ok_and(|topic| grant.rights().may_publish(&topic) || grant.rights().may_subscribe(&topic)),
        }
    }

    /// Whether the topic may be subscribed to, and so stay attached.
    pub(super) fn may_subscribe(&mut self, topic: &TopicName) -> bool {
        self.may(topic).subscribe
    }

    fn may(&mut self, topic: &TopicName) -> May {
        let rights = match &self.who {
            Who::Anyone => return May { publish: true, subscribe: true },
            Who::Stranger => return May { publish: false, subscribe: false },
            Who::Bearer(grant) => grant.rights(),
        };
        if let Some(may) = self.cache.get(topic) {
            return *may;
        }
        let may = May { publish: rights.may_publish(topic), subscribe: rights.may_subscribe(topic) };
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        self.cache.insert(topic.clone(), may);
        may
    }
}
