//! Tokens that are given, refused and taken back. When one may be checked is for whoever drives the session to decide: there is
//! no clock here.

use std::fmt;

use bytes::BytesMut;

use super::Session;
use super::hello::Options;
use crate::protocol::reply;

/// What a token would make of the session.
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
    /// Whether a token has been given and has to be checked, by [`Session::check_claim`], when its time has come.
    #[must_use]
    pub fn has_claim(&self) -> bool {
        self.claim.is_some()
    }

    /// Checks the token that was given; false: it is wrong, and the session ends.
    pub fn check_claim(&mut self) -> bool {
        let Some(Claim { token, options }) = self.claim.take() else { return true };
        let right = self.access.take(&token);
        if right {
            self.framer.set_limit(self.settings.max_line_bytes);
            self.apply(options);
            self.work();
        } else {
            self.turn_away(reply::authentication_failed);
        }
        right
    }

    /// Ends the session because too many wrong tokens have come from its address, whatever this one is.
    pub fn refuse_claim(&mut self) {
        self.claim = None;
        self.turn_away(reply::too_many_attempts);
    }

    /// Whose token it is that was given.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        self.access.bearer()
    }

    /// Whether a token has to be given before anything else.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.access.is_locked()
    }

    /// Ends the session because no token was given in time.
    pub fn give_up_on_token(&mut self) {
        self.turn_away(reply::authentication_required);
    }

    /// The tokens were replaced: the session ends unless nothing has changed for it.
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
