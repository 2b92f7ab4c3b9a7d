//! The demo with MongoDB: the pipeline stores there, and the broker gets the changes of its collections.

use crate::cli::exit::UsageError;

use broker_core::settings::shown_url;
use broker_core::settings::text::quoted;

/// The MongoDB of a demo.
pub(super) struct MongoDb {
    uri: String,
    database: String,
}

impl MongoDb {
    /// Checks `uri`, without connecting: a server that is down is waited for later.
    ///
    /// # Errors
    /// When `uri` is no connection string (it may hold a password, so the message does not quote it), or this build has no
    /// MongoDB.
    pub(super) fn new(uri: String) -> Result<Self, UsageError> {
        let database = database(&uri).map_err(|reason| UsageError(format!("--mongodb: {reason}")))?;
        Ok(Self { uri, database })
    }

    /// The configuration of sources and sink. The database is named for both: a change stream has no default for it, the sink has.
    pub(super) fn configuration(&self) -> (String, String) {
        let (uri, database) = (quoted(&self.uri), quoted(&self.database));
        let source = |collection: &str, msg: &str| {
            // MongoDB may have dropped the resume point by the next start; a demo then logs that and goes on from now.
            format!(
                "[[sources]]\nkind = \"change-stream\"\nname = \"{collection}\"\nuri = {uri}\ndatabase = {database}\n\
                 collection = \"{collection}\"\ntopic = \"{collection}\"\nmsg = \"{msg}\"\non_missing = \"skip\"\n\
                 priority = {{ random = [0, 6] }}\non_lost_history = \"restart\"\n"
            )
        };
        let sources = [
            source("tweets", "/fullDocument/original_tweet/message/tweet/text"),
            source("users", "/fullDocument/screen_name"),
        ];
        (sources.concat(), format!("kind = \"mongodb\"\nuri = {uri}\n"))
    }

    /// The servers and the database, without credentials and options.
    pub(super) fn shown(&self) -> String {
        let shown = shown_url(&self.uri);
        let servers = shown.split('?').next().unwrap_or_default();
        let servers = servers.trim_end_matches(&self.database).trim_end_matches('/');
        format!("{servers}, database \"{}\"", self.database)
    }
}

/// The database that the pipeline's sink uses.
#[cfg(feature = "mongodb")]
fn database(uri: &str) -> Result<String, String> {
    let sink = pipeline_tweets::sink::mongodb::MongoSink::new(uri).map_err(|error| error.to_string())?;
    Ok(sink.database_name().to_owned())
}

#[cfg(not(feature = "mongodb"))]
fn database(_uri: &str) -> Result<String, String> {
    Err("this build has no MongoDB: rebuild with --features mongodb".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "mongodb")]
    #[test]
    fn credentials_are_not_shown_and_the_database_is_said_once() {
        for (uri, shown) in [
            ("mongodb://u:s3cret@a:1,b:2/d?replicaSet=rs0", "mongodb://(hidden)@a:1,b:2, database \"d\""),
            ("mongodb://a:1/?replicaSet=rs0", "mongodb://a:1, database \"rtp_sse_db\""),
            ("mongodb://a:1", "mongodb://a:1, database \"rtp_sse_db\""),
        ] {
            assert_eq!(MongoDb::new(uri.to_owned()).unwrap().shown(), shown);
        }
        let error = MongoDb::new("mongo://u:s3cret@a".to_owned()).err().unwrap().to_string();
        assert!(error.starts_with("--mongodb: not a MongoDB connection string (mongodb://host:27017"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[cfg(not(feature = "mongodb"))]
    #[test]
    fn a_build_without_mongodb_says_what_to_do() {
        let error = MongoDb::new("mongodb://u:s3cret@a".to_owned()).err().unwrap().to_string();
        assert_eq!(error, "--mongodb: this build has no MongoDB: rebuild with --features mongodb");
    }
}
