//! Authentication: checks tokens, refuses them, and reacts when they are revoked.
//!
//! A session has no clock, so it does not check a token itself: it stops at the `hello` that carries one until the connection
//! calls [`Session::check_claim`], which it delays after failed attempts from the same address (see [`crate::auth`]).

use std::fmt;

use bytes::BytesMut;

use super::Session;
use super::hello::Options;
use crate::protocol::reply;

/// A `hello` whose token has not been checked yet.
pub(super) struct Claim {
    pub(super) token: String,
    pub(super) options: Options,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Session {
    /// Whether a token waits to be checked by [`Session::check_claim`]. Until then no further line is executed.
    #[must_use]
    pub fn has_claim(&self) -> bool {
        self.claim.is_some()
    }

    /// Checks the token. Returns false if it is wrong, which ends the session.
    pub fn check_claim(&mut self) -> bool {
        let Some(Claim { token, options }) = self.claim.take() else { return true };
        let right = self.access.authenticate(&token);
        if right {
            self.framer.set_limit(self.settings.max_line_bytes);
            self.apply(options);
            self.work();
        } else {
            self.turn_away(reply::authentication_failed);
        }
        right
    }

    /// Ends the session without checking its token, because its address has sent too many wrong ones.
    pub fn refuse_claim(&mut self) {
        self.claim = None;
        self.turn_away(reply::too_many_attempts);
    }

    /// The name of the accepted token, for logs.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        self.access.bearer()
    }

    /// Whether the client must authenticate before any other command.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.access.is_locked()
    }

    /// Ends the session because no token arrived in time.
    pub fn give_up_on_token(&mut self) {
        self.turn_away(reply::authentication_required);
    }

    /// Reacts to replaced tokens: ends the session unless its own token and rights are unchanged.
    pub fn tokens_changed(&mut self) {
        if !self.access.still_holds() {
            self.claim = None;
            self.turn_away(reply::rights_changed);
        }
    }

    fn turn_away(&mut self, say: impl FnOnce(&mut BytesMut)) {
        if !self.quitting {
            self.say(say);
            self.quitting = true;
            self.turned_away = true;
        }
    }
}
