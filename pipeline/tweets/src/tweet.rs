//! Parses a feed's message: the tweet in it, and the tweets that it retweets or quotes.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::sink::EngagementCounts;

/// The envelope around a tweet that is scored on its own, so that it looks as if it had arrived by itself.
const ENVELOPE: [&str; 2] = ["{\"message\":{\"tweet\":", "}}"];

/// The parts of one tweet that the pipeline needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tweet {
    /// Its `id_str`.
    pub(super) id: String,
    /// Its text.
    pub(super) text: String,
    /// The inputs of the engagement score.
    pub(super) counts: EngagementCounts,
    /// The author's `id_str`.
    pub(super) user_id: String,
    /// The author, as JSON text.
    pub(super) user: String,
    /// The tweet in the feed's envelope, as JSON text.
    pub(super) original: String,
    /// Its hashtags, without duplicates; empty for a tweet embedded in another.
    pub(super) tags: Vec<String>,
}

/// A message, or an embedded tweet, from which no tweet can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// As JSON text.
    pub(super) text: String,
    /// The problem, in words for an operator.
    pub(super) reason: String,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    tweet: &'a RawValue,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    id_str: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    /// Twitter may omit it or send null; both mean 0.
    favorite_count: Option<u64>,
    /// As above.
    retweet_count: Option<u64>,
    #[serde(borrow)]
    user: &'a RawValue,
    #[serde(borrow, default)]
    entities: Option<&'a RawValue>,
    #[serde(borrow, default)]
    retweeted_status: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    id_str: Cow<'a, str>,
    followers_count: Option<u64>,
    /// Reserved: the pipeline sets it.
    #[serde(default, rename = "_id")]
    own_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Entities {
    #[serde(default)]
    hashtags: Vec<Hashtag>,
}

#[derive(Deserialize)]
struct Hashtag {
    text: String,
}

/// Reads a feed's message: the tweet itself, then those embedded in it, outermost first; each can be malformed independently.
///
/// # Panics
/// If `data` is not JSON. The reference's workers crash in the same way on the feed's `{"message": panic}`; the pool handles it.
pub(super) fn read(data: String) -> Vec<Result<Tweet, Malformed>> {
    let outer = match serde_json::from_str::<Envelope<'_>>(&data) {
        Ok(envelope) => envelope.message.tweet,
        Err(error) => {
            // The error does not show whether the rest is JSON: it may concern something ahead of the invalid part.
            if let Err(syntax) = serde_json::from_str::<IgnoredAny>(&data) {
                panic!("the feed sent a message that is not JSON: {syntax}");
            }
            return vec![Err(Malformed { reason: format!("no tweet in the message: {error}"), text: data })];
        }
    };
    let (first, mut inner) = read_tweet(outer);
    let mut tweets = Vec::with_capacity(2);
    while let Some(raw) = inner {
        let (tweet, next) = read_tweet(raw);
        let [before, after] = ENVELOPE;
        tweets.push(tweet.map(|tweet| Tweet {
            original: format!("{before}{}{after}", raw.get()),
            tags: Vec::new(),
            ..tweet
        }));
        inner = next;
    }
    let first = match first {
        Ok(tweet) => Ok(Tweet { original: data, ..tweet }),
        Err(malformed) => Err(malformed),
    };
    tweets.insert(0, first);
    tweets
}

/// Reads one tweet, without its `original`, and returns which tweet it repeats.
fn read_tweet(raw: &RawValue) -> (Result<Tweet, Malformed>, Option<&RawValue>) {
    let malformed = |reason: String| Malformed { text: raw.get().to_owned(), reason };
    let fields = match serde_json::from_str::<Fields<'_>>(raw.get()) {
        Ok(fields) => fields,
        Err(error) => return (Err(malformed(format!("not a tweet: {error}"))), None),
    };
    let inner = fields.retweeted_status.filter(|raw| raw.get() != "null");
    let user = match serde_json::from_str::<User<'_>>(fields.user.get()) {
        Ok(User { own_id: Some(_), .. }) => Err("the tweet's user has a field _id already".to_owned()),
        Ok(user) if user.id_str.is_empty() => Err("the tweet's user has an empty id_str".to_owned()),
        Ok(_) if fields.id_str.is_empty() => Err("the tweet has an empty id_str".to_owned()),
        Ok(user) => Ok(user),
        Err(error) => Err(format!("the tweet's user cannot be read: {error}")),
    };
    let tweet = user.map_err(malformed).map(|user| Tweet {
        id: fields.id_str.into_owned(),
        text: fields.text.into_owned(),
        counts: EngagementCounts {
            favorite_count: fields.favorite_count.unwrap_or(0),
            retweet_count: fields.retweet_count.unwrap_or(0),
            followers_count: user.followers_count.unwrap_or(0),
        },
        user_id: user.id_str.into_owned(),
        user: fields.user.get().to_owned(),
        original: String::new(),
        tags: fields.entities.map(tags).unwrap_or_default(),
    });
    (tweet, inner)
}

/// The hashtags in a tweet's `entities`; empty if the shape differs from Twitter's, since no score depends on it.
fn tags(entities: &RawValue) -> Vec<String> {
    let Ok(entities) = serde_json::from_str::<Entities>(entities.get()) else { return Vec::new() };
    let mut tags: Vec<String> = Vec::with_capacity(entities.hashtags.len());
    for hashtag in entities.hashtags {
        if !hashtag.text.is_empty() && !tags.contains(&hashtag.text) {
            tags.push(hashtag.text);
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = r#"{"id_str":"7","followers_count":9,"name":"Ñ"}"#;

    fn message(tweet: &str) -> String {
        format!(r#"{{"message":{{"tweet":{tweet},"unix_timestamp_100us":1}}}}"#)
    }

    fn one(tweet: &str) -> Result<Tweet, Malformed> {
        let mut tweets = read(message(tweet));
        assert_eq!(tweets.len(), 1);
        tweets.remove(0)
    }

    #[test]
    fn a_tweet_keeps_its_message_byte_for_byte() {
        let tweet = format!(
            r##"{{"id_str":"1","n":1e999,"text":"a \ud83d\ude00","user":{USER},"favorite_count":2,"entities":{{"hashtags":[{{"text":"Rust"}},{{"text":"rust"}},{{"text":"Rust"}}]}}}}"##
        );
        let got = one(&tweet).unwrap();
        assert_eq!(got.original, message(&tweet));
        assert_eq!((&*got.id, &*got.text, &*got.user_id, &*got.user), ("1", "a 😀", "7", USER));
        assert_eq!(got.counts, EngagementCounts { favorite_count: 2, retweet_count: 0, followers_count: 9 });
        assert_eq!(got.tags, ["Rust", "rust"]);
    }

    #[test]
    fn an_embedded_tweet_is_scored_by_itself_without_tags() {
        let inner =
            format!(r##"{{"id_str":"1","text":"x","user":{USER},"entities":{{"hashtags":[{{"text":"a"}}]}}}}"##);
        let outer = format!(r#"{{"id_str":"2","text":"RT x","user":{USER},"retweeted_status":{inner}}}"#);
        let got: Vec<Tweet> = read(message(&outer)).into_iter().map(Result::unwrap).collect();
        assert_eq!(got.iter().map(|tweet| &*tweet.id).collect::<Vec<_>>(), ["2", "1"]);
        assert_eq!(got[1].original, format!(r#"{{"message":{{"tweet":{inner}}}}}"#));
        assert_eq!(got[1].tags, [""; 0]);
    }

    #[test]
    fn a_malformed_tweet_has_a_reason_and_keeps_the_others() {
        for (tweet, reason) in [
            ("[1]", "not a tweet"),
            (r#"{"id_str":"1","text":"x"}"#, "missing field `user`"),
            (r#"{"id_str":"1","text":7,"user":{"id_str":"7"}}"#, "invalid type"),
            (r#"{"id_str":"1","text":"x","user":{}}"#, "missing field `id_str`"),
            (
                r#"{"id_str":"1","text":"x","user":{"id_str":"7","followers_count":-1}}"#,
                "the tweet's user cannot be read",
            ),
            (r#"{"id_str":"1","text":"x","favorite_count":1.5,"user":{"id_str":"7"}}"#, "invalid type: floating point"),
            (r#"{"id_str":"1","text":"x","user":{"id_str":"7","_id":1}}"#, "_id already"),
            (r#"{"id_str":"","text":"x","user":{"id_str":"7"}}"#, "empty id_str"),
            (r#"{"id_str":"1","text":"x","user":{"id_str":""}}"#, "empty id_str"),
        ] {
            let got = one(tweet).unwrap_err();
            assert!(got.reason.contains(reason), "{tweet}: {}", got.reason);
            assert_eq!(got.text, tweet);
        }
        let got = read(r#"{"delete":{"id":1}}"#.to_owned());
        assert!(
            matches!(&got[..], [Err(malformed)] if malformed.reason.contains("missing field `message`")),
            "{got:?}"
        );
        let outer = format!(r#"{{"id_str":"2","text":"RT x","user":{USER},"retweeted_status":{{"id_str":"1"}}}}"#);
        let got = read(message(&outer));
        assert!(matches!(&got[..], [Ok(_), Err(_)]), "{got:?}");
        let odd = format!(
            r#"{{"id_str":"2","text":"x","user":{USER},"retweeted_status":null,"entities":[1],"retweet_count":null}}"#
        );
        assert!(one(&odd).is_ok());
    }

    #[test]
    fn a_message_that_is_not_json_panics() {
        for data in ["{\"message\": panic}", "", "{\"message\":[1],", "{\"message\":{\"tweet\":{}}} x"] {
            let panic = std::panic::catch_unwind(|| read(data.to_owned())).unwrap_err();
            let text = panic.downcast_ref::<String>().unwrap();
            assert!(text.starts_with("the feed sent a message that is not JSON"), "{text}");
        }
    }
}
