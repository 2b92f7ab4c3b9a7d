//! When a client's token is checked, and what becomes of one that gives none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use broker_core::auth::{Attempt, Grant, Tokens};
use broker_core::session::Session;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The time that a client without a required token may stay: long enough for a person to paste one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Decides when a connection's token is checked.
pub(crate) struct Gate {
    tokens: Arc<Tokens>,
    replaced: watch::Receiver<Arc<[Arc<Grant>]>>,
    from: IpAddr,
    since: Instant,
    next: Next,
}

/// The next occasion to act.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Nothing,
    /// The client has to send a token by then.
    Token(Instant),
    /// The time to check one.
    Check(Instant),
    /// Tokens were replaced.
    Replaced,
}

impl Gate {
    /// Before the session is made, so that no replacement is missed.
    pub(crate) fn new(tokens: Arc<Tokens>, from: IpAddr) -> Self {
        let replaced = tokens.watch();
        Self { tokens, replaced, from, since: Instant::now(), next: Next::Nothing }
    }

    /// Checks the session's token if it may be checked now; otherwise sets the next occasion.
    pub(crate) fn look(&mut self, session: &mut Session) {
        if !session.has_claim() {
            self.next = if session.is_locked() { Next::Token(self.since + PATIENCE) } else { Next::Nothing };
            return;
        }
        if matches!(self.next, Next::Check(_)) {
            return;
        }
        let now = Instant::now();
        match self.tokens.attempt(self.from, now) {
            Attempt::At(at) if at <= now => self.check(session),
            Attempt::At(at) => self.next = Next::Check(at),
            Attempt::Refused => session.refuse_claim(),
        }
    }

    /// Waits for the next occasion. Cancel-safe.
    pub(crate) async fn opens(&mut self) {
        let time = match self.next {
            Next::Token(at) | Next::Check(at) => Some(at),
            Next::Nothing | Next::Replaced => None,
        };
        let time = async {
            match time {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The sender is in `tokens`, so it is not closed.
            _ = self.replaced.changed() => self.next = Next::Replaced,
            () = time => {}
        }
    }

    /// Performs whatever `opens` woke up for.
    pub(crate) fn pass(&mut self, session: &mut Session) {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => {}
            Next::Token(_) => session.give_up_on_token(),
            Next::Check(_) => self.check(session),
            Next::Replaced => session.tokens_changed(),
        }
    }

    fn check(&mut self, session: &mut Session) {
        self.next = Next::Nothing;
        if session.check_claim() {
            tracing::debug!(from = %self.from, bearer = session.bearer(), "authenticated");
        } else {
            self.tokens.failed(self.from, Instant::now());
        }
    }
}
