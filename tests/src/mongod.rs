//! Real MongoDB servers for tests: a single one or a replica set, which can be killed and restarted.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::PATIENCE;

/// A shell script that runs its arguments, prints the process id, and kills the process when its own input ends. So no server outlives
/// the tests, however they end.
const GUARD: &str = r#""$@" >/dev/null 2>&1 & p=$!; echo $p; read -r _; kill -9 $p 2>/dev/null; wait $p"#;

/// The path of mongod: the one in `PATH`, or the one installed by `.ci/mongod`.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("mongod")).filter(|program| program.exists());
    found.next().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/mongod/mongod"))
}

/// One server, with a temporary directory for its data.
pub struct Mongod {
    dir: TempDir,
    port: u16,
    options: Vec<String>,
    running: Option<Running>,
}

struct Running {
    guard: Child,
    input: ChildStdin,
    pid: Pid,
}

impl Mongod {
    /// Prepares a server with these options on a free port, without starting it.
    #[must_use]
    pub fn prepare(options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("herald-mongod-").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { dir, port, options, running: None }
    }

    /// Starts a server outside any replica set, and waits until it answers.
    pub async fn standalone(options: &[&str]) -> Self {
        let mut mongod = Self::prepare(options);
        mongod.run().await;
        mongod
    }

    /// Starts the server on its data and port, and waits until it answers.
    pub async fn run(&mut self) {
        self.spawn();
        let began = Instant::now();
        while let Err(error) = self.direct().await.database("admin").run_command(doc! { "ping": 1 }).await {
            assert!(began.elapsed() < PATIENCE, "mongod does not answer: {error}\n{}", self.log());
        }
    }

    fn spawn(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).arg(program());
        command.args(["--bind_ip", "127.0.0.1", "--port", &self.port.to_string(), "--wiredTigerCacheSizeGB", "0.25"]);
        command.arg("--dbpath").arg(self.dir.path()).arg("--logpath").arg(self.dir.path().join("mongod.log"));
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]).args(&self.options);
        let mut guard = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let input = guard.stdin.take().unwrap();
        self.running = Some(Running { guard, input, pid });
    }

    /// Kills the server as a crash would.
    pub fn kill(&mut self) {
        let Running { mut guard, input, pid } = self.running.take().expect("it runs");
        let _it_may_have_ended = kill_process(pid, Signal::KILL);
        drop(input);
        guard.wait().unwrap();
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client of this server alone, even if it belongs to a set.
    pub async fn direct(&self) -> Client {
        client(&format!("mongodb://{}/?directConnection=true", self.addr())).await
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = std::fs::read(self.dir.path().join("mongod.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its directory, in which it ignores unknown files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
    }
}

/// A client with a short timeout, so that tests can report the problem.
pub(crate) async fn client(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(5));
    Client::with_options(options).unwrap()
}

/// A replica set called `rs0`.
pub struct ReplicaSet {
    nodes: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts a set of this many nodes with these options, and waits until it accepts writes.
    pub async fn start(nodes: usize, options: &[&str]) -> Self {
        let mut all = vec!["--replSet", "rs0"];
        all.extend(options);
        if !options.contains(&"--oplogSize") {
            all.extend(["--oplogSize", "64"]);
        }
        let mut set = Self { nodes: (0..nodes).map(|_| Mongod::prepare(&all)).collect() };
        for node in &mut set.nodes {
            node.run().await;
        }
        let members: Vec<Document> =
            (0_i32..).zip(&set.nodes).map(|(id, node)| doc! { "_id": id, "host": node.addr() }).collect();
        let config = doc! {
            "_id": "rs0", "members": members,
            "settings": { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 200 },
        };
        let first = set.nodes[0].direct().await;
        first.database("admin").run_command(doc! { "replSetInitiate": config }).await.unwrap();
        set.wait_for_primary().await;
        set
    }

    /// The connection string for a database.
    #[must_use]
    pub fn uri(&self, database: &str) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(Mongod::addr).collect();
        format!("mongodb://{}/{database}?replicaSet=rs0", hosts.join(","))
    }

    /// A client of the set. Each test needs its own, because the client lives in the test's runtime.
    pub async fn client(&self) -> Client {
        client(&self.uri("")).await
    }

    /// Waits until a node accepts writes, and returns its index.
    pub async fn wait_for_primary(&self) -> usize {
        let began = Instant::now();
        loop {
            for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.running.is_some()) {
                let hello = node.direct().await.database("admin").run_command(doc! { "hello": 1 }).await;
                if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                    return index;
                }
            }
            assert!(began.elapsed() < PATIENCE, "no primary:\n{}", self.nodes[0].log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The node of this index.
    pub fn node(&mut self, index: usize) -> &mut Mongod {
        &mut self.nodes[index]
    }

    /// Makes the primary step down, and waits for another.
    pub async fn step_down(&self) {
        let primary = self.wait_for_primary().await;
        let client = self.nodes[primary].direct().await;
        // The primary may close the connection instead of answering.
        let _answer = client.database("admin").run_command(doc! { "replSetStepDown": 5, "force": true }).await;
        self.wait_for_primary().await;
    }
}
