//! The transcripts of `docs/protocol.md`, replayed on the binary, over TCP and over WebSocket.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpStream};

use herald_tests::{PATIENCE, TestBroker, WebSocketClient, is_as_written};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");
const GREETING: &str = "Successfully connected to message_broker";

/// A transcript's lines, each with its number in the document.
type Transcript = Vec<(usize, &'static str)>;

fn transcripts() -> Vec<Transcript> {
    let mut transcripts = Vec::new();
    let mut open: Option<Transcript> = None;
    for (at, line) in DOCUMENT.lines().enumerate() {
        match (&mut open, line) {
            (None, "```transcript") => open = Some(Vec::new()),
            (Some(_), "```") => transcripts.extend(open.take()),
            (Some(lines), _) => lines.push((at + 1, line)),
            (None, _) => {}
        }
    }
    assert!(open.is_none(), "a transcript without an end");
    transcripts
}

/// The meaning of one line of a transcript.
enum Step {
    Configuration(&'static str),
    Says { client: &'static str, line: &'static str },
    Hears { client: &'static str, line: &'static str },
    HangsUp { client: &'static str },
    IsClosed { client: &'static str },
    Crash,
}

fn step(line: &'static str) -> Option<Step> {
    if let Some(setting) = line.strip_prefix("# ") {
        return Some(Step::Configuration(setting));
    }
    if let Some(event) = line.strip_prefix("! ") {
        return match event.split_once(' ')? {
            ("the", "broker is killed and started again") => Some(Step::Crash),
            ("it", "is closed") => Some(Step::IsClosed { client: "" }),
            (client, "is closed") => Some(Step::IsClosed { client }),
            (client, "hangs up") => Some(Step::HangsUp { client }),
            _ => None,
        };
    }
    let at = line.find(['<', '>'])?;
    let (client, rest) = line.split_at(at);
    let line = rest[1..].strip_prefix(' ').unwrap_or(&rest[1..]);
    let is_letter = |client: &str| client.len() <= 1 && client.chars().all(|c| c.is_ascii_lowercase());
    match (is_letter(client), &rest[..1]) {
        (true, ">") => Some(Step::Says { client, line }),
        (true, _) => Some(Step::Hears { client, line }),
        _ => None,
    }
}

/// The transport that carries the lines.
#[derive(Clone, Copy, PartialEq)]
enum Carrier {
    Tcp,
    WebSocket,
}

/// A connection that has received its greeting.
enum Client {
    Tcp(BufReader<TcpStream>),
    WebSocket(Box<WebSocketClient>),
}

impl Client {
    fn connect(broker: &TestBroker, carrier: Carrier) -> Result<Self, String> {
        if carrier == Carrier::WebSocket {
            return Ok(Self::WebSocket(Box::new(WebSocketClient::connect(broker.addr_of("ws")))));
        }
        let stream = TcpStream::connect(broker.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self::Tcp(BufReader::new(stream));
        client.hear(GREETING)?;
        Ok(client)
    }

    fn say(&mut self, line: &str) -> Result<(), String> {
        match self {
            Self::Tcp(stream) => stream.get_mut().write_all(format!("{line}\r\n").as_bytes()),
            Self::WebSocket(socket) => {
                socket.send(line);
                Ok(())
            }
        }
        .map_err(|error| error.to_string())
    }

    /// The next line; `None` if the connection is closed.
    fn line(&mut self) -> Result<Option<String>, String> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::WebSocket(socket) => return Ok(socket.message().ok()),
        };
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => line.strip_suffix("\r\n").map(|line| Some(line.to_owned())).ok_or(format!("half a line: {line}")),
            Err(error) => Err(format!("nothing comes: {error}")),
        }
    }

    fn hear(&mut self, written: &str) -> Result<(), String> {
        match self.line()? {
            Some(line) if is_as_written(&line, written) => Ok(()),
            Some(line) => Err(format!("the broker says {line}")),
            None => Err("the broker has closed the connection".to_owned()),
        }
    }

    /// Closes the connection, and checks whether any lines were left unread.
    fn ends(&mut self) -> Result<(), String> {
        match self {
            Self::Tcp(stream) => stream.get_ref().shutdown(Shutdown::Write).unwrap(),
            // A WebSocket receives nothing after its own close frame.
            Self::WebSocket(socket) => {
                socket.send("quit");
                self.hear("bye")?;
            }
        }
        self.is_closed()
    }

    fn is_closed(&mut self) -> Result<(), String> {
        self.line()?.map_or(Ok(()), |line| Err(format!("the broker says {line}")))
    }
}

fn replay(transcript: &Transcript, carrier: Carrier) -> Result<(), String> {
    let steps: Vec<_> = transcript.iter().map(|(at, line)| (*at, *line, step(line))).collect();
    let mut settings: String = steps
        .iter()
        .filter_map(|(.., step)| match step {
            Some(Step::Configuration(setting)) => Some(format!("{setting}\n")),
            _ => None,
        })
        .collect();
    if carrier == Carrier::WebSocket {
        settings += "[transports.ws]\nlisten = \"127.0.0.1:0\"\n";
    }
    let mut broker = TestBroker::start(&settings);
    let mut clients = BTreeMap::new();
    for (at, line, step) in steps {
        let done = match step {
            Some(step) => take(step, &mut broker, carrier, &mut clients),
            None => Err("no transcript has such a line".to_owned()),
        };
        done.map_err(|why| format!("docs/protocol.md:{at}: {line}\n    {why}"))?;
    }
    // Lines missing from the transcript are a mistake as well.
    for (name, mut client) in clients {
        client.ends().map_err(|why| {
            format!("docs/protocol.md:{}: after the transcript's end, to client {name:?}\n    {why}", transcript[0].0)
        })?;
    }
    Ok(())
}

fn take(
    step: Step,
    broker: &mut TestBroker,
    carrier: Carrier,
    clients: &mut BTreeMap<&'static str, Client>,
) -> Result<(), String> {
    let client = match step {
        Step::Configuration(_) => return Ok(()),
        Step::Crash => {
            clients.clear();
            broker.kill();
            broker.run();
            return Ok(());
        }
        Step::Says { client, .. }
        | Step::Hears { client, .. }
        | Step::HangsUp { client }
        | Step::IsClosed { client } => client,
    };
    let is_new = !clients.contains_key(client);
    if is_new {
        clients.insert(client, Client::connect(broker, carrier)?);
    }
    let connection = clients.get_mut(client).unwrap();
    match step {
        Step::Says { line, .. } => connection.say(line),
        Step::Hears { line: GREETING, .. } if is_new => Ok(()),
        Step::Hears { line, .. } => connection.hear(line),
        Step::HangsUp { .. } => {
            clients.remove(client);
            Ok(())
        }
        _ => {
            let mut connection = clients.remove(client).unwrap();
            connection.is_closed()
        }
    }
}

#[test]
fn the_broker_answers_as_in_the_protocol_document() {
    let transcripts = transcripts();
    assert!(transcripts.len() > 10, "the transcripts are found");
    for carrier in [Carrier::Tcp, Carrier::WebSocket] {
        let wrong: Vec<String> =
            transcripts.iter().filter_map(|transcript| replay(transcript, carrier).err()).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn the_document_shows_every_command() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.send("help");
    let lines = std::iter::from_fn(|| Some(client.line()).filter(|line| !line.is_empty()));
    let commands: BTreeSet<String> = lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert!(commands.len() > 10, "{commands:?}");
    let transcripts = transcripts();
    let said = transcripts.iter().flatten().filter_map(|(_, line)| match step(line) {
        Some(Step::Says { line, .. }) => line.split_whitespace().next(),
        _ => None,
    });
    let shown: BTreeSet<String> = said.map(str::to_owned).collect();
    let missing: Vec<_> = commands.difference(&shown).collect();
    assert!(missing.is_empty(), "in no transcript: {missing:?}");
}

#[test]
fn a_wrong_transcript_is_reported_with_its_line() {
    let cases: [(&[&str], &str); 5] = [
        (&["> ping", "< pang"], "docs/protocol.md:2: < pang\n    the broker says pong"),
        (
            &["> ping", "> topics", "< pong"],
            "docs/protocol.md:1: after the transcript's end, to client \"\"\n    the broker says []",
        ),
        (&["> ping", "< p…g…x"], "docs/protocol.md:2: < p…g…x\n    the broker says pong"),
        (&["> quit", "< bye", "< more"], "docs/protocol.md:3: < more\n    the broker has closed the connection"),
        (&["a> ping", "and so on"], "docs/protocol.md:2: and so on\n    no transcript has such a line"),
    ];
    for (lines, expected) in cases {
        let transcript = lines.iter().enumerate().map(|(at, line)| (at + 1, *line)).collect();
        for carrier in [Carrier::Tcp, Carrier::WebSocket] {
            assert_eq!(replay(&transcript, carrier), Err(expected.to_owned()));
        }
    }
}
