//! What the change stream and the sink have in common: how to connect, and errors in one line.

use std::time::Duration;

use mongodb::Client;
use mongodb::error::{CommandError, Error, ErrorKind};
use mongodb::options::{ClientOptions, ConnectionString};

/// How long the driver looks for a server, unless the connection string says otherwise.
const SERVER_SELECTION: Duration = Duration::from_secs(10);

/// Reads a connection string without asking anybody. The error says what is wrong, without quoting what may be secret.
pub(crate) fn parse(uri: &str) -> Result<ConnectionString, String> {
    ConnectionString::parse(uri).map_err(|error| {
        let expected = "not a MongoDB connection string (mongodb://host:27017/database?replicaSet=rs0)";
        match &*error.kind {
            // The driver's texts name parts of it, never the credentials.
            ErrorKind::InvalidArgument { message, .. } => format!("{expected}: {message}"),
            _ => expected.to_owned(),
        }
    })
}

/// A client, which connects when it is needed. Reading the connection string may ask the DNS.
pub(crate) async fn client(uri: &str) -> Result<Client, Error> {
    let mut options = ClientOptions::parse(uri).await?;
    options.app_name.get_or_insert_with(|| "herald".to_owned());
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION);
    Client::with_options(options)
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

/// The same of what a server answered.
pub(crate) fn brief_command(command: &CommandError) -> String {
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
