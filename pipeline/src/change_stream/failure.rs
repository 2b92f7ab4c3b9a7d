//! What went wrong with a stream, and what is to be done about it.

use mongodb::error::{CommandError, Error, ErrorKind};

use crate::mongo::{brief, brief_command};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It can pass by itself: try again.
    Passing(String),
    /// What comes after the token is gone, or cannot be found.
    HistoryLost(String),
    /// A change is too large for the server to hand it over.
    TooLarge,
    /// Nothing helps but a person; the text says what to do.
    NeedsPerson(String),
}

/// `BSONObjectTooLarge`.
const TOO_LARGE: i32 = 10334;

/// ChangeStreamHistoryLost; ChangeStreamFatalError, with which a token is not found; InvalidResumeToken; CloseChangeStream, after which the
/// stream cannot be resumed.
const HISTORY_LOST: [i32; 4] = [286, 280, 260, 222];

/// Judges an error of the driver.
pub(super) fn judge(error: &Error) -> Failure {
    match &*error.kind {
        ErrorKind::Command(command) => judge_command(command),
        ErrorKind::Authentication { .. } => Failure::NeedsPerson(format!(
            "MongoDB refuses user name or password ({}): correct them in the uri (authSource=admin may be missing)",
            brief(error)
        )),
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => {
            Failure::NeedsPerson(format!("the uri cannot be used: {}", brief(error)))
        }
        ErrorKind::IncompatibleServer { .. } => {
            Failure::NeedsPerson(format!("this MongoDB is too old or too new for the driver: {}", brief(error)))
        }
        _ => Failure::Passing(brief(error)),
    }
}

fn judge_command(command: &CommandError) -> Failure {
    let said = brief_command(command);
    let needs = |what: &str| Failure::NeedsPerson(format!("{what} ({said})"));
    match command.code {
        TOO_LARGE => Failure::TooLarge,
        code if HISTORY_LOST.contains(&code) => Failure::HistoryLost(said),
        40573 => needs(
            "this MongoDB is not a replica set, and only these have change streams: start mongod with --replSet rs0 and run rs.initiate() once",
        ),
        13 => needs(
            "the user may not watch this database: it needs the role read there (and changeStream and find on it)",
        ),
        18 => needs("MongoDB refuses user name or password: correct them in the uri (authSource=admin may be missing)"),
        47 => needs(
            "a change has no pre- or post-image, which \"required\" asks for: enable changeStreamPreAndPostImages on the collection and go on with \"when-available\" until the older changes are past",
        ),
        166 => needs("the collection is a view, and views have no change streams: watch the collection below it"),
        73 => needs("MongoDB does not take the name of the database or the collection"),
        // FailedToParse, BadValue, TypeMismatch, InvalidOptions, an unknown option, an unknown stage, an unknown command.
        2 | 9 | 14 | 72 | 40415 | 40324 | 59 => needs("this version of MongoDB does not understand what was asked for"),
        _ => Failure::Passing(said),
    }
}
