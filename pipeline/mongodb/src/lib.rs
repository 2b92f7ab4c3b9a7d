//! The code that the change streams and the tweet sink share for MongoDB: connecting, and errors in one line.

use std::time::Duration;

use mongodb::Client;
use mongodb::error::{CommandError, Error, ErrorKind};
use mongodb::options::{ClientOptions, ConnectionString};

/// The time limit for finding a server, unless the connection string sets another.
const SERVER_SELECTION: Duration = Duration::from_secs(10);

/// Reads a connection string without asking the DNS.
///
/// # Errors
/// The problem in words, without quoting possible secrets.
pub fn parse(uri: &str) -> Result<ConnectionString, String> {
    if let Some(problem) = unsupported(uri) {
        return Err(problem);
    }
    ConnectionString::parse(uri).map_err(|error| {
        let expected = "not a MongoDB connection string (mongodb://host:27017/database?replicaSet=rs0)";
        match &*error.kind {
            // The driver's texts quote parts of the string, never the credentials.
            ErrorKind::InvalidArgument { message, .. } => format!("{expected}: {message}"),
            _ => expected.to_owned(),
        }
    })
}

/// Options of MongoDB's drivers that this build does not support, in lower case, with advice on each.
const UNSUPPORTED: [(&str, &str); 15] = [
    ("compressors", "the connection is not compressed; leave it out"),
    ("zlibcompressionlevel", "the connection is not compressed; leave it out"),
    ("sockettimeoutms", "a missing answer is noticed after 90 s; leave it out"),
    ("waitqueuetimeoutms", "the driver has no such limit; leave it out"),
    ("timeoutms", "the driver has no such limit; leave it out"),
    ("tlscertificatekeyfilepassword", "the key file must not have a password"),
    ("tlsallowinvalidhostnames", "the name in the server's certificate is always checked; leave it out"),
    ("tlsdisableocspendpointcheck", "certificates are not checked with OCSP; leave it out"),
    ("tlsdisablecertificaterevocationcheck", "certificates are not checked for revocation; leave it out"),
    ("proxyhost", "it connects without a proxy"),
    ("proxyport", "it connects without a proxy"),
    ("proxyusername", "it connects without a proxy"),
    ("proxypassword", "it connects without a proxy"),
    ("fsync", "write journal=true instead"),
    ("j", "write journal=true instead"),
];

/// Describes the first unsupported option, without its value, which may be secret.
fn unsupported(uri: &str) -> Option<String> {
    let (_, options) = uri.split_once('?')?;
    options.split('&').find_map(|option| {
        let (name, value) = option.split_once('=')?;
        if name.eq_ignore_ascii_case("authMechanism") && ["GSSAPI", "MONGODB-AWS"].contains(&value) {
            return Some(format!(
                "this build does not support authMechanism={value}: use SCRAM-SHA-256, SCRAM-SHA-1, MONGODB-X509 or PLAIN"
            ));
        }
        let advice = UNSUPPORTED.iter().find(|(known, _)| name.eq_ignore_ascii_case(known))?.1;
        Some(format!("this build does not support the option {name}: {advice}"))
    })
}

/// Creates a client, which connects when it is first used. Resolving the connection string may ask the DNS.
///
/// # Errors
/// If the connection string is invalid or the DNS does not answer.
pub async fn client(uri: &str) -> Result<Client, Error> {
    let mut options = ClientOptions::parse(uri).await?;
    options.app_name.get_or_insert_with(|| "herald".to_owned());
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION);
    Client::with_options(options)
}

/// The longest quotation of a server's text, in characters.
const MOST: usize = 300;

/// Describes an error in one line. The driver's own text lists the state of every server.
#[must_use]
pub fn brief(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Command(command) => brief_command(command),
        ErrorKind::ServerSelection { message, .. } => no_server(message),
        ErrorKind::Io(error) => format!("the connection failed: {error}"),
        other => cut(&other.to_string()),
    }
}

/// Describes an error from a server in one line.
#[must_use]
pub fn brief_command(command: &CommandError) -> String {
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

/// Shortens the driver's text when it finds no server, which has the form
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
        return "none of the servers belongs to a replica set of the name in the uri".to_owned();
    }
    let more = if servers.next().is_some() { ", …" } else { "" };
    format!("no usable server ({}{more})", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_server_is_named_with_the_reason() {
        let message = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: localhost:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {} }, { Address: b:2, Type: RsSecondary, Average RTT: 1ms } ] }";
        assert_eq!(
            no_server(message),
            "no usable server (localhost:1: I/O error: Connection refused (os error 111), b:2: RsSecondary)"
        );
        assert!(no_server("Server selection timeout: … Servers: [  ] }").contains("replica set of the name"));
    }

    #[test]
    fn an_unsupported_option_is_named_without_its_value() {
        for option in ["compressors=zstd", "SocketTimeoutMS=s3cret", "proxyPassword=s3cret", "zlibCompressionLevel=3"] {
            let problem = parse(&format!("mongodb://u:s3cret@h/d?replicaSet=rs0&{option}")).unwrap_err();
            let name = option.split('=').next().unwrap();
            assert!(problem.contains(&format!("does not support the option {name}: ")), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        let problem = parse("mongodb://h/d?authMechanism=MONGODB-AWS").unwrap_err();
        assert!(problem.contains("authMechanism=MONGODB-AWS"), "{problem}");
        assert!(parse("mongodb://h/d?replicaSet=rs0&tls=true&connectTimeoutMS=5&appName=x&w=majority").is_ok());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut(&"é".repeat(400)).chars().count(), MOST + 1);
    }
}
