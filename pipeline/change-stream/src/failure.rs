//! Classifies the failures of a stream by the reaction that each needs.

use mongodb::error::{CommandError, Error, ErrorKind};

use super::stream::Silent;
use pipeline_mongodb::{brief, brief_command};

/// A failure, by the reaction that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may pass by itself: retry.
    Passing(String),
    /// The changes after the token are gone or cannot be found: apply `on_lost_history`.
    HistoryLost(String),
    /// The server cannot send a change because it is too large: read one by one, and pass it.
    TooLarge,
    /// An operator has to act; the text says how.
    NeedsPerson(String),
}

/// `BSONObjectTooLarge`.
const TOO_LARGE: i32 = 10334;

/// ChangeStreamHistoryLost; ChangeStreamFatalError, the answer to a token that is not found; InvalidResumeToken; CloseChangeStream,
/// after which the stream cannot be resumed.
const HISTORY_LOST: [i32; 4] = [286, 280, 260, 222];

/// Classifies an error of the driver.
pub(super) fn judge(error: &Error) -> Failure {
    match &*error.kind {
        ErrorKind::Command(command) => judge_command(command),
        ErrorKind::Authentication { .. } => Failure::NeedsPerson(format!(
            "MongoDB refuses user name or password ({}): correct them in the uri (authSource=admin may be missing)",
            brief(error)
        )),
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => {
            Failure::NeedsPerson(format!("invalid uri: {}", brief(error)))
        }
        ErrorKind::IncompatibleServer { .. } => Failure::NeedsPerson(format!(
            "this version of MongoDB is too old or too new for the driver: {}",
            brief(error)
        )),
        _ => Failure::Passing(brief(error)),
    }
}

/// The failure for a watched collection that has no change stream.
pub(super) fn silent_collection(name: &str, kind: Silent) -> Failure {
    Failure::NeedsPerson(match kind {
        Silent::TimeSeries => format!(
            "{name} is a time-series collection, and MongoDB offers no change streams on these: leave it out; its writers can also write to an ordinary collection, which can be watched"
        ),
        Silent::View => {
            format!(
                "{name} is a view, and MongoDB offers no change streams on these: watch the collection that it reads"
            )
        }
    })
}

fn judge_command(command: &CommandError) -> Failure {
    let said = brief_command(command);
    let needs = |what: &str| Failure::NeedsPerson(format!("{what} ({said})"));
    match command.code {
        TOO_LARGE => Failure::TooLarge,
        code if HISTORY_LOST.contains(&code) => Failure::HistoryLost(said),
        40573 => needs(
            "this MongoDB is not a replica set, and only replica sets have change streams: start mongod with --replSet rs0 and run rs.initiate() once",
        ),
        13 => needs(
            "the user may not watch this database: grant it the role read there (or the actions changeStream and find)",
        ),
        18 => needs("MongoDB refuses user name or password: correct them in the uri (authSource=admin may be missing)"),
        47 => needs(
            "a change has no pre- or post-image, which \"required\" asks for: enable changeStreamPreAndPostImages on the collection, and use \"when-available\" until the older changes have been read",
        ),
        166 => needs(
            "MongoDB offers no change streams on views and time-series collections: instead of a view, watch the collection that it reads; the writers of a time-series collection can also write to an ordinary one",
        ),
        73 => needs("MongoDB rejects the name of the database or the collection"),
        // FailedToParse, BadValue, TypeMismatch, InvalidOptions, an unknown option, an unknown stage, an unknown command.
        2 | 9 | 14 | 72 | 40415 | 40324 | 59 => needs("this version of MongoDB does not support the request"),
        _ => Failure::Passing(said),
    }
}
