//! Generates tweets: Twitter's v1.1 tweet object in the envelope of the reference system's feed,
//! `{"message":{"tweet":{…},"unix_timestamp_100us":…}}`.
//!
//! A tweet is a pure function of seed, stream and number. A client can therefore resume with `Last-Event-ID` at any server with the
//! same seed, and the server remembers nothing. The field `unix_timestamp_100us` is in microseconds, as in the real feed.

use super::event::FeedStream;
use super::json;
use super::random::{Dice, mix};
use super::text::{Span, Text};
use super::time::{EPOCH_SECONDS, MILLIS_PER_TWEET, push_created_at};
use super::users::{User, Users};

/// The number of different tweets in a stream, after which it repeats: over a week at 100,000 per second. The bound keeps tweet ids,
/// which hold 41 bits of milliseconds, within a signed 64-bit number of 19 digits.
pub const TWEETS_PER_STREAM: u64 = 1 << 36;

/// The version of the content. Raise it with any change to the tweet of a given number, including the tables of `words`. It is part of
/// the event ids, so a client of an older feed starts over instead of resuming among different tweets.
pub(super) const VERSION: u64 = 1;

/// The epoch of Twitter's Snowflake ids, in milliseconds since 1970.
const SNOWFLAKE_EPOCH_MILLIS: u64 = 1_288_834_974_657;

/// The values of an id's sequence part, which has 12 bits.
const SEQUENCES: u64 = 4_096;

/// The bit in an id's machine part that marks a tweet embedded in a retweet.
const EMBEDDED: u64 = 16;

/// Keeps the dice for a retweeted tweet's age independent of those for its content.
const AGE_SALT: u64 = 0x0061_6765;

const SOURCES: [(&str, u64); 6] = [
    ("<a href=\"http://twitter.com/download/iphone\" rel=\"nofollow\">Twitter for iPhone</a>", 38),
    ("<a href=\"http://twitter.com/download/android\" rel=\"nofollow\">Twitter for Android</a>", 34),
    ("<a href=\"https://mobile.twitter.com\" rel=\"nofollow\">Twitter Web App</a>", 18),
    ("<a href=\"http://twitter.com/download/ipad\" rel=\"nofollow\">Twitter for iPad</a>", 4),
    ("<a href=\"https://about.twitter.com/products/tweetdeck\" rel=\"nofollow\">TweetDeck</a>", 4),
    ("<a href=\"https://example.com/bot\" rel=\"nofollow\">a friendly bot</a>", 2),
];

/// The message with tweet number `n` of a stream: one line of JSON, the same on every call and machine. For many tweets of one seed
/// use a [`Generator`], which creates each user once.
///
/// ```
/// use pipeline_feed::{FeedStream, tweet};
///
/// assert_eq!(tweet(7, FeedStream::One, 41), tweet(7, FeedStream::One, 41));
/// assert!(tweet(7, FeedStream::Two, 0).starts_with(r#"{"message":{"tweet":{"#));
/// ```
#[must_use]
pub fn tweet(seed: u64, stream: FeedStream, n: u64) -> String {
    let mut out = String::new();
    Generator::new(seed).push_message(stream, n, &mut out);
    out
}

/// Generates the tweets of one seed. Caches the users it has generated (at most 3,000, about 4 MB) and nothing else.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    users: Users,
}

/// The inputs of a rendered tweet object.
struct Tweet<'a> {
    id: u64,
    millis: u64,
    author: &'a User,
    source: &'static str,
    text: Text<'a>,
    /// The id of the tweet that this one replies to, if it is a reply.
    answers: Option<u64>,
    retweets: u64,
    favorites: u64,
}

impl Generator {
    /// Creates a generator for any `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, users: Users::new(seed) }
    }

    /// Appends the message with tweet number `n` (modulo [`TWEETS_PER_STREAM`]) to `out`: one line of JSON, without a line
    /// break, 2 to 6 kB.
    pub fn push_message(&self, stream: FeedStream, n: u64, out: &mut String) {
        let n = n % TWEETS_PER_STREAM;
        let key = u64::from(stream.number());
        let mut dice = Dice::new([self.seed, key, n, 0]);
        // The phase and the sequence depend on the seed, so feeds with different seeds share few ids.
        let phase = mix(self.seed) % MILLIS_PER_TWEET;
        let sequence = (n + mix(self.seed ^ AGE_SALT)) % SEQUENCES;
        let millis = EPOCH_SECONDS * 1_000 + n * MILLIS_PER_TWEET + phase;
        let id = snowflake(millis, key, sequence);
        // The age depends on the sequence alone. Embedded tweets with the same sequence are a multiple of 4,096 tweets apart
        // and shifted by the same age, so their ids differ.
        let age = Dice::new([self.seed, key, sequence, AGE_SALT]).between(60_000, 6 * 3_600_000);
        let older_millis = millis - age;
        let older_id = snowflake(older_millis, key | EMBEDDED, sequence);

        out.push_str("{\"message\":{\"tweet\":");
        if dice.chance(34) {
            let author = self.users.popular(&mut dice);
            let original = self.original(&mut dice, author, older_id, older_millis, true);
            let mut by = self.users.author(&mut dice);
            if by.id == author.id {
                // Users do not retweet themselves.
                by = self.users.get(author.number + 1);
            }
            let retweet = Tweet {
                id,
                millis,
                author: by,
                source: source(&mut dice),
                text: original.text.retweeted(original.author),
                answers: None,
                // As Twitter does: a retweet carries the number of retweets of what it repeats, and no likes of its own.
                retweets: original.retweets,
                favorites: 0,
            };
            retweet.render(Some(&original), out);
        } else {
            let author = self.users.author(&mut dice);
            let mut tweet = self.original(&mut dice, author, id, millis, false);
            if tweet.text.text.starts_with('@') && dice.chance(70) {
                tweet.answers = Some(older_id);
            }
            tweet.render(None, out);
        }
        out.push_str(",\"unix_timestamp_100us\":");
        json::push_u64(out, millis * 1_000);
        out.push_str("}}");
    }

    /// A tweet that is no retweet. One that was `retweeted` has been seen by more people than one just written.
    fn original<'a>(&'a self, dice: &mut Dice, author: &'a User, id: u64, millis: u64, retweeted: bool) -> Tweet<'a> {
        let text = Text::compose(&self.users, author, dice);
        let (retweets, favorites) = if retweeted {
            let favorites = dice.long_tail(3 + dice.clone().below(4) as u32, 19);
            (1 + favorites / dice.between(2, 6), favorites)
        } else {
            let favorites = if dice.chance(45) { 0 } else { dice.long_tail(1, 14) };
            (favorites / dice.between(2, 8), favorites)
        };
        Tweet { id, millis, author, source: source(dice), text, answers: None, retweets, favorites }
    }
}

impl Tweet<'_> {
    /// Appends the tweet object, with the fields and in the order that the real feed has them.
    fn render(&self, retweeted: Option<&Tweet<'_>>, out: &mut String) {
        // A retweet has the language of its original.
        let language = retweeted.unwrap_or(self).author.language.code;
        out.push_str("{\"metadata\":{\"result_type\":\"recent\",\"iso_language_code\":\"");
        out.push_str(language);
        out.push_str("\"},\"created_at\":\"");
        push_created_at(out, self.millis / 1_000);
        out.push_str("\",\"id\":");
        json::push_u64(out, self.id);
        out.push_str(",\"id_str\":\"");
        json::push_u64(out, self.id);
        out.push_str("\",\"text\":");
        json::push_str(out, &self.text.text);
        out.push_str(",\"source\":");
        json::push_str(out, self.source);
        json::field_bool(out, "truncated", self.text.truncated);
        self.render_reply(out);
        out.push_str(",\"user\":");
        out.push_str(&self.author.json);
        out.push_str(",\"geo\":null,\"coordinates\":null,\"place\":null,\"contributors\":null");
        if let Some(original) = retweeted {
            out.push_str(",\"retweeted_status\":");
            original.render(None, out);
        }
        json::field_u64(out, "retweet_count", self.retweets);
        json::field_u64(out, "favorite_count", self.favorites);
        self.render_entities(out);
        out.push_str(",\"favorited\":false,\"retweeted\":false");
        if !self.text.links.is_empty() {
            json::field_bool(out, "possibly_sensitive", false);
        }
        out.push_str(",\"lang\":\"");
        out.push_str(language);
        out.push_str("\"}");
    }

    fn render_reply(&self, out: &mut String) {
        let to = match self.text.mentions.first() {
            Some((Span { start: 0, .. }, user)) => Some(*user),
            _ => None,
        };
        out.push_str(",\"in_reply_to_status_id\":");
        push_number_or_null(out, self.answers, "");
        out.push_str(",\"in_reply_to_status_id_str\":");
        push_number_or_null(out, self.answers, "\"");
        out.push_str(",\"in_reply_to_user_id\":");
        push_number_or_null(out, to.map(|user| user.id), "");
        out.push_str(",\"in_reply_to_user_id_str\":");
        push_number_or_null(out, to.map(|user| user.id), "\"");
        out.push_str(",\"in_reply_to_screen_name\":");
        match to {
            Some(user) => json::push_str(out, &user.screen_name),
            None => out.push_str("null"),
        }
    }

    fn render_entities(&self, out: &mut String) {
        out.push_str(",\"entities\":{\"hashtags\":[");
        list(out, &self.text.hashtags, |out, tag| {
            out.push_str("\"text\":");
            json::push_str(out, tag);
        });
        out.push_str("],\"symbols\":[],\"urls\":[");
        list(out, &self.text.links, |out, link| {
            out.push_str("\"url\":\"https://t.co/");
            out.push_str(&link.token);
            out.push_str("\",\"expanded_url\":\"https://");
            out.push_str(&link.target);
            out.push_str("\",\"display_url\":\"");
            out.push_str(&link.target);
            out.push('"');
        });
        out.push_str("],\"user_mentions\":[");
        list(out, &self.text.mentions, |out, user| {
            out.push_str("\"screen_name\":");
            json::push_str(out, &user.screen_name);
            out.push_str(",\"name\":");
            json::push_str(out, &user.name);
            json::field_u64(out, "id", user.id);
            out.push_str(",\"id_str\":\"");
            json::push_u64(out, user.id);
            out.push('"');
        });
        out.push_str("]}");
    }
}

/// Appends the entities of one kind, each with its fields and then its `indices`.
fn list<T>(out: &mut String, entities: &[(Span, T)], fields: impl Fn(&mut String, &T)) {
    for (nth, (span, entity)) in entities.iter().enumerate() {
        out.push_str(if nth == 0 { "{" } else { ",{" });
        fields(out, entity);
        out.push_str(",\"indices\":[");
        json::push_u64(out, span.start as u64);
        out.push(',');
        json::push_u64(out, span.end as u64);
        out.push_str("]}");
    }
}

fn push_number_or_null(out: &mut String, n: Option<u64>, quote: &str) {
    match n {
        Some(n) => {
            out.push_str(quote);
            json::push_u64(out, n);
            out.push_str(quote);
        }
        None => out.push_str("null"),
    }
}

/// A tweet id in Twitter's format: milliseconds since its epoch, 10 bits of machine, 12 bits of sequence.
fn snowflake(millis: u64, machine: u64, sequence: u64) -> u64 {
    (millis - SNOWFLAKE_EPOCH_MILLIS) << 22 | machine << 12 | sequence
}

fn source(dice: &mut Dice) -> &'static str {
    let mut percentile = dice.below(100);
    for (source, share) in SOURCES {
        if percentile < share {
            return source;
        }
        percentile -= share;
    }
    SOURCES[0].0
}

#[cfg(test)]
mod tests;
