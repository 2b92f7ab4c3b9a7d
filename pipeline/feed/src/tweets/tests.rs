use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::*;

const STREAMS: [FeedStream; 2] = [FeedStream::One, FeedStream::Two];

/// The tweet objects of the first `count` messages of both streams.
fn sample(seed: u64, count: u64) -> Vec<Value> {
    let generator = Generator::new(seed);
    let mut tweets = Vec::new();
    for stream in STREAMS {
        for n in 0..count {
            let mut line = String::new();
            generator.push_message(stream, n, &mut line);
            assert!(!line.contains(['\n', '\r']), "a raw line break in {line}");
            let mut message: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line}"));
            assert!(message["message"]["unix_timestamp_100us"].is_u64());
            tweets.push(message["message"]["tweet"].take());
        }
    }
    tweets
}

/// The tweet and what it retweets.
fn with_embedded(tweet: &Value) -> impl Iterator<Item = &Value> {
    [Some(tweet), tweet.get("retweeted_status")].into_iter().flatten()
}

fn slice(text: &str, indices: &Value) -> String {
    let (start, end) = (indices[0].as_u64().unwrap(), indices[1].as_u64().unwrap());
    text.chars().skip(start as usize).take((end - start) as usize).collect()
}

#[test]
fn a_tweet_is_a_pure_function_of_seed_stream_and_number() {
    let generator = Generator::new(11);
    for n in [0, 1, 99, 4_096, 1_000_000_007, TWEETS_PER_STREAM - 1] {
        // In a different order, and with the cache of another generator.
        let mut line = String::new();
        generator.push_message(FeedStream::One, n, &mut line);
        assert_eq!(line, tweet(11, FeedStream::One, n));
        assert_ne!(line, tweet(12, FeedStream::One, n));
        assert_ne!(line, tweet(11, FeedStream::Two, n));
        assert_ne!(line, tweet(11, FeedStream::One, n + 1));
    }
    assert_eq!(tweet(11, FeedStream::One, 3), tweet(11, FeedStream::One, TWEETS_PER_STREAM + 3));
    assert!(tweet(u64::MAX, FeedStream::Two, u64::MAX).ends_with("}}"));
}

#[test]
fn the_first_tweets_change_only_together_with_the_version() {
    let text = |stream| {
        let message: Value = serde_json::from_str(&tweet(1, stream, 0)).unwrap();
        message["message"]["tweet"]["text"].as_str().unwrap().to_owned()
    };
    let texts = [text(FeedStream::One), text(FeedStream::Two)];
    // If you change these on purpose, raise VERSION too.
    assert_eq!(VERSION, 1);
    assert_eq!(
        texts,
        [
            "RT @luis956: @302ella que péssimo o calor, não aguento mais\nalguém me explica a praia? eu: vou estudar\n\
             também eu: minha mãe. gente, o ônibus é top demais. o carnaval: que saudade, viu. kkkkkk esse filme nunca \
             decepciona. #Benfica vamos com tudo",
            "@valen_37 the garden is hilarious! why is that ending always so terrible? Good morning everyone! Time for \
             the new album &amp; coffee. https://t.co/RSBQcUUe9M",
        ]
    );
}

#[test]
fn the_fields_that_the_pipeline_reads_are_there_in_every_tweet() {
    for tweet in sample(3, 500).iter().flat_map(with_embedded) {
        let id = tweet["id_str"].as_str().unwrap();
        assert_eq!(tweet["id"].as_u64().unwrap().to_string(), id);
        assert!((18..=19).contains(&id.len()), "{id}");
        assert!(tweet["id"].as_i64().is_some(), "{id} is beyond a signed number");
        let text = tweet["text"].as_str().unwrap();
        assert!((1..=280).contains(&text.chars().count()), "{text}");
        assert!(tweet["retweet_count"].is_u64() && tweet["favorite_count"].is_u64());
        assert!(tweet["user"]["followers_count"].is_u64() && tweet["user"]["friends_count"].is_u64());
        assert!(tweet["user"]["id_str"].is_string() && tweet["user"]["screen_name"].is_string());
        assert!(tweet["source"].as_str().unwrap().starts_with("<a href=\"http"));
        assert!(tweet["truncated"].is_boolean() && tweet["lang"].is_string());
        let created = tweet["created_at"].as_str().unwrap();
        assert!(created.len() == 30 && created.ends_with(" +0000 2022"), "{created}");
    }
}

#[test]
fn indices_point_at_the_entity_in_code_points() {
    let (mut hashtags, mut after_emoji, mut mentions, mut urls) = (0, 0, 0, 0);
    for tweet in sample(4, 3_000).iter().flat_map(with_embedded) {
        let text = tweet["text"].as_str().unwrap();
        let entities = &tweet["entities"];
        for tag in entities["hashtags"].as_array().unwrap() {
            hashtags += 1;
            let found = slice(text, &tag["indices"]);
            assert_eq!(found, format!("#{}", tag["text"].as_str().unwrap()), "in {text}");
            let before: String = text.chars().take(tag["indices"][0].as_u64().unwrap() as usize).collect();
            after_emoji += usize::from(before.chars().any(|c| u32::from(c) > 0xffff));
        }
        for mention in entities["user_mentions"].as_array().unwrap() {
            mentions += 1;
            let found = slice(text, &mention["indices"]);
            assert_eq!(found, format!("@{}", mention["screen_name"].as_str().unwrap()), "in {text}");
        }
        for url in entities["urls"].as_array().unwrap() {
            urls += 1;
            assert_eq!(slice(text, &url["indices"]), url["url"].as_str().unwrap(), "in {text}");
        }
    }
    assert!(hashtags > 1_000 && mentions > 1_000 && urls > 500, "{hashtags} {mentions} {urls}");
    assert!(after_emoji > 50, "hashtags after an emoji are what tells code points from UTF-16: {after_emoji}");
}

#[test]
fn ids_are_unique_over_100000_tweets_of_each_stream_embedded_ones_included() {
    let generator = Generator::new(5);
    let mut seen = HashSet::new();
    let mut line = String::new();
    for stream in STREAMS {
        for n in 0..100_000 {
            line.clear();
            generator.push_message(stream, n, &mut line);
            // Parsing 400 MB in a debug build would take minutes. A tweet's id follows its time directly; a user's id is at
            // the beginning of its object.
            for part in line.split(" +0000 2022\",\"id\":").skip(1) {
                let id: u64 = part.split(',').next().unwrap().parse().unwrap();
                assert!(seen.insert(id), "{id} twice, at {n}");
            }
        }
    }
    assert!(seen.len() > 260_000, "{}: the embedded tweets were not found", seen.len());
}

#[test]
fn about_a_third_are_retweets_and_embed_a_tweet_of_another_user() {
    let tweets = sample(6, 3_000);
    let retweets: Vec<_> = tweets.iter().filter(|t| t.get("retweeted_status").is_some()).collect();
    let share = retweets.len() * 100 / tweets.len();
    assert!((30..=38).contains(&share), "{share} %");
    for tweet in retweets {
        let original = &tweet["retweeted_status"];
        assert!(original.get("retweeted_status").is_none());
        assert_ne!(original["user"]["id_str"], tweet["user"]["id_str"]);
        assert!(original["id"].as_u64() < tweet["id"].as_u64(), "an original is older");
        assert_eq!(original["retweet_count"], tweet["retweet_count"]);
        assert_eq!(original["lang"], tweet["lang"]);
        let start = format!("RT @{}: ", original["user"]["screen_name"].as_str().unwrap());
        assert!(tweet["text"].as_str().unwrap().starts_with(&start));
    }
}

#[test]
fn many_languages_many_authors_and_some_without_followers() {
    let tweets = sample(7, 3_000);
    let mut languages = BTreeMap::new();
    let mut users = BTreeMap::new();
    for tweet in &tweets {
        *languages.entry(tweet["lang"].as_str().unwrap()).or_insert(0_usize) += 1;
        let user = &tweet["user"];
        let first = users.entry(user["id_str"].as_str().unwrap()).or_insert(user);
        assert_eq!(*first, user, "a user does not change");
    }
    for code in ["en", "es", "pt", "ja", "fr", "ar", "ro", "de"] {
        let share = languages.get(code).copied().unwrap_or_default() * 1_000 / tweets.len();
        assert!(share >= 8, "{code}: {share} per mille of {languages:?}");
    }
    assert!(users.len() > 1_000, "{} authors", users.len());
    let unfollowed = users.values().filter(|u| u["followers_count"] == 0).count();
    assert!(unfollowed > 10, "{unfollowed} authors without followers");
}

#[test]
fn english_tweets_vary_in_sentiment_and_all_vary_in_engagement() {
    // Some words of AFINN-111; the pipeline's tests cover the whole list.
    const VALUES: [(&str, i32); 10] = [
        ("love", 3),
        ("good", 3),
        ("happy", 3),
        ("amazing", 4),
        ("outstanding", 5),
        ("bad", -3),
        ("hate", -3),
        ("terrible", -3),
        ("sad", -2),
        ("worst", -3),
    ];
    let tweets = sample(8, 2_000);
    let (mut kind, mut unkind, mut neutral) = (0, 0, 0);
    for tweet in tweets.iter().filter(|t| t["lang"] == "en") {
        let text = tweet["text"].as_str().unwrap().replace(['.', ',', '?', '/', ':', ';', '!', '|'], "").to_lowercase();
        let sum: i32 = text
            .split_whitespace()
            .filter_map(|word| VALUES.iter().find(|(known, _)| *known == word).map(|(_, value)| value))
            .sum();
        match sum {
            0 => neutral += 1,
            1.. => kind += 1,
            _ => unkind += 1,
        }
    }
    assert!(kind > 100 && unkind > 100 && neutral > 100, "{kind} {unkind} {neutral}");
    let liked = tweets.iter().filter(|t| t["favorite_count"] != 0).count();
    assert!((400..3_000).contains(&liked), "{liked} of {}", tweets.len());
}

#[test]
fn texts_are_short_and_long_with_emoji_and_line_breaks() {
    let tweets = sample(9, 2_000);
    let texts: Vec<&str> = tweets.iter().map(|t| t["text"].as_str().unwrap()).collect();
    let lengths: Vec<usize> = texts.iter().map(|t| t.chars().count()).collect();
    assert!(lengths.iter().filter(|l| **l < 50).count() > 400);
    assert!(lengths.iter().filter(|l| **l > 200).count() > 100);
    assert!(texts.iter().filter(|t| t.contains('\n')).count() > 50);
    assert!(texts.iter().filter(|t| t.contains("&amp;")).count() > 5);
    let distinct: HashSet<_> = texts.iter().collect();
    assert!(distinct.len() > texts.len() * 9 / 10, "{} of {}", distinct.len(), texts.len());
}
