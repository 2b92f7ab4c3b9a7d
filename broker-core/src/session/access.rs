//! What a session may do: decided once for each topic.

use std::sync::Arc;

use crate::auth::{Grant, Tokens};
use crate::name::TopicName;
use crate::table::Table;

/// Topics whose decision is remembered; beyond it, the memory begins anew.
const MAX_DECIDED: usize = 256;

/// A session's rights.
#[derive(Debug)]
pub(super) struct Access {
    tokens: Arc<Tokens>,
    who: Who,
    decided: Table<TopicName, May>,
}

#[derive(Debug)]
enum Who {
    /// No tokens are asked for.
    Anyone,
    /// A token is asked for, and has not been given.
    Nobody,
    /// The bearer of a token.
    Bearer(Arc<Grant>),
}

#[derive(Debug, Clone, Copy)]
struct May {
    publish: bool,
    subscribe: bool,
}

impl Access {
    pub(super) fn new(tokens: Arc<Tokens>) -> Self {
        let who = if tokens.are_required() { Who::Nobody } else { Who::Anyone };
        Self { tokens, who, decided: Table::default() }
    }

    /// Whether a token has to be given before anything else.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self.who, Who::Nobody)
    }

    /// Whether tokens mean anything here.
    pub(super) fn asks_for_tokens(&self) -> bool {
        !matches!(self.who, Who::Anyone)
    }

    /// Whose token was given.
    pub(super) fn bearer(&self) -> Option<&str> {
        match &self.who {
            Who::Bearer(grant) => Some(&grant.rights().name),
            Who::Anyone | Who::Nobody => None,
        }
    }

    /// Takes a token; false: it is wrong.
    pub(super) fn take(&mut self, token: &str) -> bool {
        match self.tokens.check(token) {
            Some(grant) => {
                self.who = Who::Bearer(grant);
                self.decided = Table::default();
                true
            }
            None => false,
        }
    }

    /// Whether, after the tokens were replaced, everything is as it was for this session.
    pub(super) fn still_holds(&self) -> bool {
        match &self.who {
            Who::Anyone => !self.tokens.are_required(),
            // It may go on to give a token, or find that none is asked for any more.
            Who::Nobody => self.tokens.are_required(),
            Who::Bearer(grant) => self.tokens.still_has(grant),
        }
    }

    fn may(&mut self, topic: &TopicName) -> May {
        let rights = match &self.who {
            Who::Anyone => return May { publish: true, subscribe: true },
            Who::Nobody => return May { publish: false, subscribe: false },
            Who::Bearer(grant) => grant.rights(),
        };
        if let Some(may) = self.decided.get(topic) {
            return *may;
        }
        let may = May { publish: rights.may_publish(topic), subscribe: rights.may_subscribe(topic) };
        if self.decided.len() >= MAX_DECIDED {
            self.decided.clear();
        }
        self.decided.insert(topic.clone(), may);
        may
    }

    pub(super) fn may_publish(&mut self, topic: &TopicName) -> bool {
        self.may(topic).publish
    }

    pub(super) fn may_subscribe(&mut self, topic: &TopicName) -> bool {
        self.may(topic).subscribe
    }

    /// Whether it may do what operators do to topics that it may subscribe to.
    pub(super) fn may_operate(&self) -> bool {
        match &self.who {
            Who::Anyone => true,
            Who::Nobody => false,
            Who::Bearer(grant) => grant.rights().admin,
        }
    }

    /// Whether figures of the topic may be seen: by whoever has to do with it.
    pub(super) fn may_see(&self, topic: &str) -> bool {
        match &self.who {
            Who::Anyone => true,
            Who::Nobody => false,
            Who::Bearer(grant) if grant.rights().admin => true,
            Who::Bearer(grant) => TopicName::new(topic)
                .is_ok_and(|topic| grant.rights().may_publish(&topic) || grant.rights().may_subscribe(&topic)),
        }
    }
}
