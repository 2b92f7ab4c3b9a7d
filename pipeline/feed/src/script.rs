//! Maps event number `n` of a stream to a tweet, a line of a file, or a panic.

use super::FeedConfig;
use super::FeedError;
use super::event::{self, EventId, FeedStream};
use super::files::{Lines, PANIC};
use super::random::mix;
use super::tweets::{Generator, VERSION};

/// Keeps fingerprints of files distinct from those of seeds.
const FILES: u64 = 0x6669_6c65_7300;

/// The content of a feed, as a function from stream and number to an event.
#[derive(Debug)]
pub(super) struct Script {
    content: Content,
    panic_every: u64,
    fingerprint: u32,
}

#[derive(Debug)]
enum Content {
    Generated(Generator),
    Files(Lines),
}

impl Script {
    /// Loads the files, if any; blocking.
    pub(super) fn new(config: &FeedConfig) -> Result<Self, FeedError> {
        let (content, hash) = if config.files.is_empty() {
            (Content::Generated(Generator::new(config.seed)), mix(config.seed) ^ VERSION)
        } else {
            let lines = Lines::load(&config.files)?;
            let hash = lines.hash() ^ FILES;
            (Content::Files(lines), hash)
        };
        Ok(Self {
            content,
            panic_every: config.panic_every,
            // Panics shift the numbers of the tweets, so they belong to the content. 32 bits are enough to distinguish feeds.
            fingerprint: (mix(hash ^ mix(config.panic_every)) >> 32) as u32,
        })
    }

    /// The number of the first event for a client that has seen `last_event_id`. An unknown id starts over at 1: a client whose id
    /// was refused could not recover by itself.
    pub(super) fn resume(&self, stream: FeedStream, last_event_id: Option<&str>) -> u64 {
        last_event_id.and_then(|id| EventId::number_in(id, stream, self.fingerprint)).map_or(1, |number| number + 1)
    }

    /// Appends event number `number`, which begins at 1, as SSE.
    pub(super) fn push_event(&self, stream: FeedStream, number: u64, out: &mut String) {
        let id = EventId { stream, fingerprint: self.fingerprint, number };
        // 0 means never: no number from 1 on is a multiple of it.
        if number.is_multiple_of(self.panic_every) {
            event::push(out, id, PANIC);
            return;
        }
        // Panics are inserted between messages, so they hide none.
        let panics = number.checked_div(self.panic_every).unwrap_or(0);
        let n = number - 1 - panics;
        match &self.content {
            Content::Files(lines) => event::push(out, id, lines.get(n)),
            Content::Generated(generator) => {
                event::begin(out, id);
                generator.push_message(stream, n, out);
                event::end(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(config: &FeedConfig) -> Script {
        Script::new(config).unwrap()
    }

    /// The id and the data of an event.
    fn event(script: &Script, number: u64) -> (String, String) {
        let mut out = String::new();
        script.push_event(FeedStream::One, number, &mut out);
        let (id, data) = out.strip_suffix("\n\n").unwrap().split_once('\n').unwrap();
        (id.strip_prefix("id: ").unwrap().into(), data.strip_prefix("data: ").unwrap().into())
    }

    #[test]
    fn panics_are_inserted_between_tweets_and_hide_none() {
        let calm = script(&FeedConfig::default());
        let nervous = script(&FeedConfig { panic_every: 3, ..FeedConfig::default() });
        let (mut tweets, mut panics) = (Vec::new(), Vec::new());
        for number in 1..=12 {
            match event(&nervous, number) {
                (_, data) if data == PANIC => panics.push(number),
                (_, data) => tweets.push(data),
            }
        }
        assert_eq!(panics, [3, 6, 9, 12]);
        assert_eq!(tweets, (1..=8).map(|number| event(&calm, number).1).collect::<Vec<_>>());
        let only = script(&FeedConfig { panic_every: 1, ..FeedConfig::default() });
        assert_eq!(event(&only, 1).1, PANIC);
        assert_eq!(event(&only, 2).1, PANIC);
    }

    #[test]
    fn an_id_resumes_its_own_feed_and_starts_others_over() {
        let one = script(&FeedConfig::default());
        let (id, _) = event(&one, 41);
        assert_eq!(one.resume(FeedStream::One, Some(&id)), 42);
        assert_eq!(one.resume(FeedStream::Two, Some(&id)), 1);
        assert_eq!(one.resume(FeedStream::One, None), 1);
        assert_eq!(one.resume(FeedStream::One, Some("nonsense")), 1);
        let seed = FeedConfig { seed: 2, ..FeedConfig::default() };
        let panics = FeedConfig { panic_every: 2, ..FeedConfig::default() };
        // Rate and limit do not change the content.
        let pace = FeedConfig { rate: 1.0, limit: Some(3), ..FeedConfig::default() };
        assert_eq!(script(&seed).resume(FeedStream::One, Some(&id)), 1);
        assert_eq!(script(&panics).resume(FeedStream::One, Some(&id)), 1);
        assert_eq!(script(&pace).resume(FeedStream::One, Some(&id)), 42);
    }

    #[test]
    fn the_highest_number_that_an_id_may_have_is_served() {
        let script = script(&FeedConfig { panic_every: u64::MAX, ..FeedConfig::default() });
        assert!(event(&script, (1 << 53) + 1).1.ends_with("}}"));
    }
}
