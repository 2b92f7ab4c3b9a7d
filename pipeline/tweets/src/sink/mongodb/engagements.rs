//! Merges scores into `users_engagements` on the server, once per tweet.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};

use super::bulk::Statement;
use crate::sink::{KEPT_SCORES, UserEngagement};

/// One update for each user with scores among these.
pub(super) fn statements(scores: &[&UserEngagement]) -> Vec<Statement> {
    let mut users: BTreeMap<&str, Vec<Bson>> = BTreeMap::new();
    for score in scores {
        users.entry(&score.user).or_default().push(Bson::Document(entry(score)));
    }
    let updates = users.into_iter().map(|(user, new)| {
        let json = Bson::Array(new.clone()).into_relaxed_extjson().to_string();
        Statement {
            statement: doc! { "q": { "_id": user }, "u": merge(user, new), "upsert": true },
            id: user.to_owned(),
            json,
        }
    });
    updates.collect()
}

fn entry(engagement: &UserEngagement) -> Document {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    doc! {
        "score": engagement.score,
        "meta": {
            "tweet": &engagement.tweet,
            "favorite_count": number(engagement.counts.favorite_count),
            "retweet_count": number(engagement.counts.retweet_count),
            "followers_count": number(engagement.counts.followers_count),
        },
    }
}

/// The stages of the update. Entries already in `meta` are skipped; if none remain, the document stays identical, byte for byte,
/// and MongoDB does not write it.
fn merge(user: &str, new: Vec<Bson>) -> Vec<Document> {
    let kept = -i32::try_from(KEPT_SCORES).unwrap_or(i32::MAX);
    let or = |field: &str, default: Bson| doc! { "$ifNull": [field, default] };
    let joined = |field: &str, more: &str| doc! { "$slice": [{ "$concatArrays": [or(field, Bson::Array(Vec::new())), more] }, kept] };
    vec![
        // A literal, so that a tweet's content is never evaluated as an expression.
        doc! { "$set": { "new": { "$filter": {
            "input": { "$literal": new },
            "as": "new",
            "cond": { "$not": [{ "$in": ["$$new.meta.tweet", or("$meta.tweet", Bson::Array(Vec::new()))] }] },
        } } } },
        doc! { "$set": {
            "id_str": { "$literal": user },
            "count": { "$add": [or("$count", Bson::Int64(0)), { "$size": "$new" }] },
            "avg": { "$cond": [
                { "$eq": ["$new", Bson::Array(Vec::new())] },
                or("$avg", Bson::Double(0.0)),
                { "$divide": [
                    { "$add": [
                        { "$multiply": [or("$avg", Bson::Double(0.0)), or("$count", Bson::Int64(0))] },
                        { "$sum": "$new.score" },
                    ] },
                    { "$add": [or("$count", Bson::Int64(0)), { "$size": "$new" }] },
                ] },
            ] },
            "scores": joined("$scores", "$new.score"),
            "meta": joined("$meta", "$new.meta"),
        } },
        doc! { "$unset": "new" },
    ]
}
