//! The sentiment score: the mean valence of a tweet's words.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use super::afinn::valence;
use super::aggregator::{Half, Score};
use super::logger::Logged;

/// The characters removed from a text before it is split, as in the reference system.
const PUNCTUATION: [char; 8] = ['.', ',', '?', '/', ':', ';', '!', '|'];

/// A tweet's sentiment score and its inputs. In a document: `sentiments_data`, together with the text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sentiment {
    /// The text's words, in order and as written.
    #[serde(rename = "tweet_words")]
    pub words: Vec<String>,
    /// The valence of each word.
    #[serde(rename = "words_emotion_values")]
    pub values: Vec<i8>,
    /// The mean of `values`; 0 if there are none.
    pub score: f64,
}

/// Scores a text: removes `. , ? / : ; ! |`, splits at Unicode white space, and looks up each word in lower case.
#[must_use]
pub fn sentiment(text: &str) -> Sentiment {
    let plain = text.replace(PUNCTUATION, "");
    let words: Vec<String> = plain.split_whitespace().map(str::to_owned).collect();
    let values: Vec<i8> = words.iter().map(|word| valence(&word.to_lowercase())).collect();
    let sum: i64 = values.iter().map(|value| i64::from(*value)).sum();
    let score = if values.is_empty() { 0.0 } else { sum as f64 / values.len() as f64 };
    Sentiment { words, values, score }
}

/// The work of the pool on one tweet.
pub(super) async fn work(logged: Logged, aggregator: Arc<mpsc::Sender<Half>>) {
    let score = Score::Sentiment(sentiment(&logged.tweet.text));
    // The receiver ends after this stage; if not, the ticket is dropped with the tweet and the event is read again.
    let _ = aggregator.send(Half { logged, score }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_scored_by_the_rules() {
        for (text, words, values, score) in [
            ("", vec![], vec![], 0.0),
            (" \u{3000}\n\t ", vec![], vec![], 0.0),
            ("...!?", vec![], vec![], 0.0),
            ("Good, GOOD; bad!", vec!["Good", "GOOD", "bad"], vec![3, 3, -3], 1.0),
            ("su.per|b work", vec!["superb", "work"], vec![5, 0], 2.5),
            // Split at any white space, including an ideographic space; a phrase of the list does not count.
            ("does not\u{3000}work\r\nNAÏVE", vec!["does", "not", "work", "NAÏVE"], vec![0, 0, 0, -2], -0.5),
            // All other characters stay.
            ("(good) good) 'good", vec!["(good)", "good)", "'good"], vec![0, 0, 0], 0.0),
            ("http://t.co/x", vec!["httptcox"], vec![0], 0.0),
        ] {
            let got = sentiment(text);
            assert_eq!(got.words, words, "{text:?}");
            assert_eq!((got.values, got.score), (values, score), "{text:?}");
        }
    }
}
