//! The clients in `examples/clients`, run like a user would, against a broker that is killed during the run.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use herald_tests::{Authority, PATIENCE, TestBroker};

const TOKENS: &str = "[auth]\ntokens = [{ token = \"s3cret\", name = \"client\", publish = [\"*\"], subscribe = [\"*\"], admin = true }]\n";

/// A program that prints its progress line by line.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = sync_channel(100);
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _the_test_has_ended = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for this line, ignoring others.
    #[track_caller]
    fn wait_for(&self, line: &str) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(said) if said == line => return,
                Ok(_) => {}
                Err(why) => panic!("{line:?} is not printed: {why}"),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _it_has_ended = self.child.kill();
        let _it_is_reaped = self.child.wait();
    }
}

fn folder(below: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below).display().to_string()
}

/// A thousand events, published and consumed by `program` while the broker is killed twice.
fn a_thousand_events_survive_kills(broker: &mut TestBroker, mut program: Program) {
    for _ in 0..2 {
        program.wait_for("consuming");
        broker.kill();
        broker.run();
    }
    program.wait_for("consumed");
    program.wait_for(
        "error: event is not of an accepted format: priority must be an integer from -2147483648 to 2147483647",
    );
    program.wait_for("error: invalid topic name \"not/a/name\": a name is made of A-Z a-z 0-9 . _ : -");
    program.wait_for("error: authentication failed");
    assert!(program.child.wait().unwrap().success());
}

/// A broker with TLS, and the file with its certificate's authority.
fn broker_with_tls() -> (TestBroker, PathBuf) {
    let authority = Authority::new();
    let tls = "[transports.tcp]\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n";
    let mut broker = TestBroker::prepare(&format!("{tls}{TOKENS}"));
    authority.issue(broker.dir());
    let ca = broker.dir().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    broker.run();
    (broker, ca)
}

fn python(broker: &TestBroker) -> Command {
    let mut command = Command::new("python3");
    command.arg(folder("tests/example_clients/consume.py")).arg(folder("../examples/clients"));
    command.arg(broker.addr().port().to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
#[cfg_attr(not(python), ignore = "there is no python3: .ci/clients installs it")]
fn events_confirmed_to_the_python_client_survive_kills_of_the_broker() {
    let mut broker = TestBroker::start(TOKENS);
    let program = Program::start(&mut python(&broker));
    a_thousand_events_survive_kills(&mut broker, program);
}

#[test]
#[cfg_attr(not(python), ignore = "there is no python3: .ci/clients installs it")]
fn events_confirmed_to_the_python_client_over_tls_survive_kills_of_the_broker() {
    let (mut broker, ca) = broker_with_tls();
    let program = Program::start(python(&broker).arg(ca));
    a_thousand_events_survive_kills(&mut broker, program);
}

/// Checks that only the second loop over a topic is refused, that leaving a loop gives events back, that closing ends loops, and that
/// connecting has a time limit.
fn loops_are_refused_left_and_closed_without_affecting_others(mut program: Program, limit: &str) {
    for line in ["given back", "again", "closed", limit] {
        program.wait_for(line);
    }
    assert!(program.child.wait().unwrap().success());
}

#[test]
#[cfg_attr(not(python), ignore = "there is no python3: .ci/clients installs it")]
fn leaving_a_python_loop_gives_its_events_back_and_a_second_loop_does_not_disturb_it() {
    let broker = TestBroker::start("");
    let mut command = Command::new("python3");
    command.arg(folder("tests/example_clients/manners.py")).arg(folder("../examples/clients"));
    command.arg(broker.addr().port().to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
    loops_are_refused_left_and_closed_without_affecting_others(Program::start(&mut command), "within 0.3 s");
}

#[test]
#[cfg_attr(not(node), ignore = "there is no node: .ci/clients installs it")]
fn leaving_a_javascript_loop_gives_its_events_back_and_a_second_loop_does_not_disturb_it() {
    let broker = TestBroker::start("");
    let mut command = Command::new("node");
    command.arg(folder("tests/example_clients/manners.mjs")).arg(folder("../examples/clients/herald.mjs"));
    command.arg(format!("tcp://localhost:{}", broker.addr().port()));
    loops_are_refused_left_and_closed_without_affecting_others(Program::start(&mut command), "within 300 ms");
}

/// Checks that a waiting consumer ends with an error once its token is no longer accepted.
fn a_revoked_token_ends_a_consumer(broker: &mut TestBroker, mut program: Program) {
    program.wait_for("waiting");
    broker.kill();
    std::fs::write(broker.dir().join("herald.toml"), TOKENS.replace("s3cret", "another")).unwrap();
    broker.run();
    program.wait_for("error: authentication failed");
    assert!(program.child.wait().unwrap().success());
}

#[test]
#[cfg_attr(not(python), ignore = "there is no python3: .ci/clients installs it")]
fn a_revoked_token_ends_a_python_consumer() {
    let script = "import asyncio, sys\nfrom herald import Herald, HeraldError\n\
        async def main():\n async with Herald(port=int(sys.argv[1]), token='s3cret') as herald:\n  \
        events = await herald.subscribe('tweets', 'inbox')\n  print('waiting', flush=True)\n  \
        try:\n   await events.__anext__()\n  except HeraldError as error:\n   print(error, flush=True)\n\
        asyncio.run(main())";
    let mut broker = TestBroker::start(TOKENS);
    let mut command = Command::new("python3");
    command.args(["-B", "-c", script, &broker.addr().port().to_string()]);
    let program = Program::start(command.env("PYTHONPATH", folder("../examples/clients")));
    a_revoked_token_ends_a_consumer(&mut broker, program);
}

#[test]
#[cfg_attr(not(node), ignore = "there is no node: .ci/clients installs it")]
fn a_revoked_token_ends_a_javascript_consumer() {
    let script = "const [client, url] = process.argv.slice(1);\
        import(client).then(({ Herald }) => Herald.connect(url, { token: 's3cret' })).then(async (herald) => {\
            const events = await herald.subscribe('tweets', 'inbox');\
            console.log('waiting');\
            await events.next().catch((error) => console.log(error.message));\
        });";
    let mut broker = TestBroker::start(TOKENS);
    let url = format!("tcp://127.0.0.1:{}", broker.addr().port());
    let program =
        Program::start(Command::new("node").args(["-e", script, &folder("../examples/clients/herald.mjs"), &url]));
    a_revoked_token_ends_a_consumer(&mut broker, program);
}

fn node(url: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(folder("tests/example_clients/node.mjs")).arg(folder("../examples/clients/herald.mjs")).arg(url);
    command
}

#[test]
#[cfg_attr(not(node), ignore = "there is no node: .ci/clients installs it")]
fn events_confirmed_to_the_javascript_client_survive_kills_of_the_broker() {
    let mut broker = TestBroker::start(TOKENS);
    let program = Program::start(&mut node(&format!("tcp://localhost:{}", broker.addr().port())));
    a_thousand_events_survive_kills(&mut broker, program);
}

#[test]
#[cfg_attr(not(node), ignore = "there is no node: .ci/clients installs it")]
fn events_confirmed_to_the_javascript_client_over_tls_survive_kills_of_the_broker() {
    let (mut broker, ca) = broker_with_tls();
    let program = Program::start(node(&format!("tls://localhost:{}", broker.addr().port())).arg(ca));
    a_thousand_events_survive_kills(&mut broker, program);
}
