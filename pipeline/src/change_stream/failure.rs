//! What went wrong with a stream, what is to be done about it, and how that is said in one line.

use mongodb::error::{CommandError, Error, ErrorKind};

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

/// The longest text of a server that is repeated.
const MOST: usize = 300;

/// An error in one line; the driver's own texts list the state of every server.
pub(crate) fn brief(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Command(command) => brief_command(command),
        ErrorKind::ServerSelection { message, .. } => no_server(message),
        ErrorKind::Io(error) => format!("the connection failed: {error}"),
        other => cut(&other.to_string()),
    }
}

fn brief_command(command: &CommandError) -> String {
    let CommandError { code, code_name, message, .. } = command;
    if code_name.is_empty() {
        format!("error {code}: {}", cut(message))
    } else {
        format!("{code_name} ({code}): {}", cut(message))
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// `Server selection timeout: …. Topology: { Type: …, Servers: [ { Address: …, Type: …, Error: Kind: …, labels: {} } ] }`.
fn no_server(message: &str) -> String {
    let mut servers = message.split("Address: ").skip(1).map(|server| {
        let (address, rest) = server.split_once(',').unwrap_or((server, ""));
        let state = match rest.split_once("Error: ") {
            Some((_, error)) => {
                error.trim_start_matches("Kind: ").split(", labels").next().unwrap_or_default().to_owned()
            }
            None => rest
                .split_once("Type: ")
                .map(|(_, kind)| kind.split([',', ' ']).next().unwrap_or_default().to_owned())
                .unwrap_or_default(),
        };
        format!("{}: {}", address.trim(), cut(state.trim()))
    });
    let listed: Vec<String> = servers.by_ref().take(5).collect();
    if listed.is_empty() {
        return "none of the servers belongs to a replica set of the name that the uri gives".to_owned();
    }
    let more = if servers.next().is_some() { ", …" } else { "" };
    format!("no server can be used ({}{more})", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_down_is_named_with_its_reason() {
        let message = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: localhost:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {} }, { Address: b:2, Type: RsSecondary, Average RTT: 1ms } ] }";
        assert_eq!(
            no_server(message),
            "no server can be used (localhost:1: I/O error: Connection refused (os error 111), b:2: RsSecondary)"
        );
        assert!(no_server("Server selection timeout: … Servers: [  ] }").contains("replica set of the name"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut(&"é".repeat(400)).chars().count(), MOST + 1);
    }
}
