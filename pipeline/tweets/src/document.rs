//! The stored documents, as JSON text.

use super::sentiment::Sentiment;
use super::tweet::Tweet;
use crate::sink::{Document, EngagementCounts};

/// The document of a tweet: `{_id, tw_id, original_tweet, sentiments_data, sentiments_score, engagement_data, engagement_score}`.
///
/// Concatenated from pieces, because `original_tweet` is the feed's own text: its numbers and key order must not change.
pub(super) fn tweet_document(tweet: &Tweet, sentiment: &Sentiment, engagement_score: f64) -> Document {
    let EngagementCounts { favorite_count, retweet_count, followers_count } = tweet.counts;
    let id = json(&tweet.id);
    let mut out = String::with_capacity(tweet.original.len() + 4 * tweet.text.len() + 512);
    out.push_str("{\"_id\":");
    out.push_str(&id);
    out.push_str(",\"tw_id\":");
    out.push_str(&id);
    out.push_str(",\"original_tweet\":");
    out.push_str(&tweet.original);
    out.push_str(",\"sentiments_data\":{\"tweet_text\":");
    out.push_str(&json(&tweet.text));
    // Concatenated with the preceding text: its own opening brace becomes the comma.
    out.push(',');
    out.push_str(&json(sentiment)[1..]);
    out.push_str(",\"sentiments_score\":");
    out.push_str(&json(&sentiment.score));
    let score = json(&engagement_score);
    out.push_str(&format!(
        ",\"engagement_data\":{{\"favorite_count\":{favorite_count},\"retweet_count\":{retweet_count},\"followers_count\":{followers_count},\"score\":{score}}},\"engagement_score\":{score}}}"
    ));
    Document { id: tweet.id.clone(), json: out }
}

/// The document of a tweet's author: the user object as received, plus its `_id`.
pub(super) fn user_document(tweet: &Tweet) -> Document {
    // An object with at least an `id_str` and without an `_id`: `tweet` has checked that.
    let json = format!("{{\"_id\":{},{}", json(&tweet.user_id), &tweet.user[1..]);
    Document { id: tweet.user_id.clone(), json }
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("strings, numbers and lists of them are JSON, and a score is finite")
}

#[cfg(test)]
mod tests {
    use super::super::sentiment::sentiment;
    use super::*;

    #[test]
    fn documents_have_the_keys_of_the_reference_and_the_feeds_own_text() {
        let original = "{\"message\":{\"tweet\":{\"id_str\":\"1\",\"n\":505874924095815700, \"f\":1.50}}}";
        let tweet = Tweet {
            id: "1".to_owned(),
            text: "a \"good\" day,\n日本".to_owned(),
            counts: EngagementCounts { favorite_count: 1, retweet_count: 2, followers_count: 4 },
            user_id: "7".to_owned(),
            user: "{ \"id_str\":\"7\"}".to_owned(),
            original: original.to_owned(),
            tags: Vec::new(),
        };
        let text = "a good day";
        let got = tweet_document(&Tweet { text: text.to_owned(), ..tweet.clone() }, &sentiment(text), 0.75);
        assert_eq!(
            got.json,
            format!(
                "{{\"_id\":\"1\",\"tw_id\":\"1\",\"original_tweet\":{original},\"sentiments_data\":{{\"tweet_text\":\"a good day\",\
                 \"tweet_words\":[\"a\",\"good\",\"day\"],\"words_emotion_values\":[0,3,0],\"score\":1.0}},\"sentiments_score\":1.0,\
                 \"engagement_data\":{{\"favorite_count\":1,\"retweet_count\":2,\"followers_count\":4,\"score\":0.75}},\
                 \"engagement_score\":0.75}}"
            )
        );
        let odd = tweet_document(&tweet, &sentiment(&tweet.text), 1e300);
        let odd: serde_json::Value = serde_json::from_str(&odd.json).unwrap();
        assert_eq!(odd["sentiments_data"]["tweet_text"], "a \"good\" day,\n日本");
        assert_eq!(user_document(&tweet).json, "{\"_id\":\"7\", \"id_str\":\"7\"}");
    }
}
