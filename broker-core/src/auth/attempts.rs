//! Throttling of failed authentications: each wrong token makes the next attempt from the same address wait longer.
//!
//! Right tokens wait as well. Otherwise the absence of an immediate answer would tell a guesser that the token was wrong, and it
//! would try the next one over another connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// The wait after the first wrong token; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait for one attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// An attempt that would wait longer than this behind others from its address is refused.
const LONGEST_QUEUE: Duration = Duration::from_secs(10);

/// The time without a wrong token after which an address is forgotten.
const FORGIVEN: Duration = Duration::from_secs(10 * 60);

/// The number of addresses remembered. When it is exceeded, the one whose last failure is oldest is forgotten.
const MAX_ADDRESSES: usize = 4096;

/// When a token may be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// At this time.
    At(Instant),
    /// Not at all: too many others from the same address are waiting.
    Refused,
}

/// The addresses that sent wrong tokens.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    addresses: HashMap<IpAddr, Guesses>,
}

#[derive(Debug)]
struct Guesses {
    failures: u32,
    failed: Instant,
    /// The time of the next attempt.
    next: Instant,
}

impl Attempts {
    /// Assigns the next turn.
    pub(super) fn attempt(&mut self, from: IpAddr, now: Instant) -> Attempt {
        let key = network(from);
        let Some(guesses) = self.addresses.get_mut(&key) else { return Attempt::At(now) };
        if now.duration_since(guesses.failed) >= FORGIVEN {
            self.addresses.remove(&key);
            return Attempt::At(now);
        }
        let turn = guesses.next.max(now);
        if turn.duration_since(now) > LONGEST_QUEUE {
            return Attempt::Refused;
        }
        guesses.next = turn + wait(guesses.failures);
        Attempt::At(turn)
    }

    /// Counts a wrong token, and returns the number of them.
    pub(super) fn failed(&mut self, from: IpAddr, now: Instant) -> u32 {
        let key = network(from);
        if !self.addresses.contains_key(&key) && self.addresses.len() >= MAX_ADDRESSES {
            self.make_room(now);
        }
        let guesses = self.addresses.entry(key).or_insert(Guesses { failures: 0, failed: now, next: now });
        guesses.failures = guesses.failures.saturating_add(1);
        guesses.failed = now;
        guesses.next = guesses.next.max(now + wait(guesses.failures));
        guesses.failures
    }

    fn make_room(&mut self, now: Instant) {
        self.addresses.retain(|_, guesses| now.duration_since(guesses.failed) < FORGIVEN);
        if self.addresses.len() >= MAX_ADDRESSES {
            let best = self.addresses.iter().min_by_key(|(_, guesses)| guesses.failed).map(|(address, _)| *address);
            best.and_then(|address| self.addresses.remove(&address));
        }
    }
}

fn wait(failures: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_WAIT)
}

/// The address to count by. For IPv6 that is its /64 network, since a client usually has all addresses of one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_wrong_token_makes_the_next_attempt_wait_longer_up_to_a_limit() {
        let (mut attempts, here, mut now) = (Attempts::default(), address("192.0.2.1"), Instant::now());
        for expected in [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let Attempt::At(turn) = attempts.attempt(here, now) else { panic!("refused") };
            assert_eq!(turn.duration_since(now), Duration::from_millis(expected));
            now = turn;
            attempts.failed(here, now);
        }
        assert_eq!(attempts.attempt(address("192.0.2.2"), now), Attempt::At(now), "no other address waits");
        now += FORGIVEN;
        assert_eq!(attempts.attempt(here, now), Attempt::At(now));
    }

    #[test]
    fn many_at_once_wait_for_each_other_and_too_many_are_sent_away() {
        let (mut attempts, here, now) = (Attempts::default(), address("2001:db8::1"), Instant::now());
        for _ in 0..5 {
            attempts.failed(here, now);
        }
        // Another address of the same network.
        let there = address("2001:db8::2");
        let turns: Vec<_> = (0..100).map(|_| attempts.attempt(there, now)).collect();
        let taken = turns.iter().filter(|turn| matches!(turn, Attempt::At(_))).count();
        assert_eq!(taken, 6, "{turns:?}");
        assert_eq!(turns[0], Attempt::At(now + Duration::from_millis(1600)));
        assert_eq!(turns[5], Attempt::At(now + Duration::from_millis(9600)));
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..10_000_u32 {
            let from = IpAddr::from(n.to_be_bytes());
            attempts.failed(from, now + Duration::from_millis(n.into()));
        }
        assert_eq!(attempts.addresses.len(), MAX_ADDRESSES);
        assert!(attempts.addresses.contains_key(&IpAddr::from(9999_u32.to_be_bytes())));
    }
}
