//! The real broker: sessions over the links of one engine, driven until nothing changes. The clock stands still while they are.

use std::sync::Arc;
use std::time::Duration;

use broker_core::engine::{Engine, Link};
use broker_core::local::{EngineSettings, LocalEngine};
use broker_core::policy::Policies;
use broker_core::session::{Session, SessionSettings};
use bytes::{Buf, BytesMut};
use tokio::sync::mpsc::error::TryRecvError;

use crate::script::{MAX_LINE, Script};
use crate::storage::InMemory;

/// Scheduler turns without an observable change after which the broker counts as settled. The longest silent exchange, a dead
/// letter to another shard and the answer, takes about ten.
const QUIET_TURNS: usize = 32;

struct Connection {
    session: Session,
    link: Link,
}

/// One broker and its connections.
pub(crate) struct Broker {
    engine: LocalEngine<InMemory>,
    storage: Arc<InMemory>,
    settings: Arc<SessionSettings>,
    connections: Vec<Option<Connection>>,
    /// The output of each connection that has not been taken.
    sent: Vec<Vec<u8>>,
}

impl Broker {
    pub(crate) async fn open(script: &Script, connections: usize) -> Self {
        let policies = Policies::new(vec![("*".to_owned(), script.policy.clone())]);
        let memory_budget_bytes = if script.forgets { 0 } else { 1 << 20 };
        let settings =
            EngineSettings { shards: script.shards, memory_budget_bytes, policies, ..EngineSettings::default() };
        let storage = Arc::new(InMemory::new(script.lag));
        let (engine, _) = LocalEngine::open(Arc::clone(&storage), settings).await.expect("there is nothing to recover");
        Self {
            engine,
            storage,
            settings: Arc::new(SessionSettings { max_line_bytes: MAX_LINE, ..SessionSettings::default() }),
            connections: (0..connections).map(|_| None).collect(),
            sent: vec![Vec::new(); connections],
        }
    }

    pub(crate) async fn connect(&mut self, at: usize) {
        let link = self.engine.connect(format!("connection {at}"));
        let session = Session::new(Arc::clone(&self.settings), self.engine.level(), Arc::clone(&link.gauge));
        self.connections[at] = Some(Connection { session, link });
        self.settle().await;
    }

    /// Drops a connection abruptly.
    pub(crate) async fn lose(&mut self, at: usize) {
        self.connections[at] = None;
        self.settle().await;
    }

    /// Sends a client's bytes in pieces. The broker may process each before the next arrives.
    pub(crate) async fn send(&mut self, at: usize, pieces: &[&[u8]]) {
        for piece in pieces {
            if let Some(connection) = &mut self.connections[at] {
                connection.session.input(&mut BytesMut::from(*piece));
            }
            self.turn().await;
        }
        self.settle().await;
    }

    pub(crate) async fn pass(&mut self, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        self.settle().await;
    }

    /// Takes the lines sent to each connection since the last call.
    pub(crate) fn take_lines(&mut self) -> Vec<Vec<String>> {
        let lines = |sent: &mut Vec<u8>| {
            let text = String::from_utf8(std::mem::take(sent)).expect("the broker says text");
            let mut lines: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
            assert_eq!(lines.pop().as_deref(), Some(""), "every line is ended");
            lines
        };
        self.sent.iter_mut().map(lines).collect()
    }

    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET_TURNS {
            quiet = if self.turn().await { 0 } else { quiet + 1 };
        }
    }

    /// Lets every task run once. Returns whether anything observable changed.
    async fn turn(&mut self) -> bool {
        let mut moved = self.storage.turn();
        for (slot, sent) in self.connections.iter_mut().zip(&mut self.sent) {
            let Some(Connection { session, link }) = slot else { continue };
            let requests = session.take_requests();
            if !requests.is_empty() {
                moved = true;
                link.requests.send(requests).await.expect("the engine is there");
            }
            loop {
                match link.events.try_recv() {
                    Ok(events) => {
                        moved = true;
                        events.into_iter().for_each(|event| session.event(event));
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => panic!("the engine has closed a link"),
                }
            }
            let output = session.output();
            while output.has_remaining() {
                moved = true;
                let chunk = output.chunk();
                let len = chunk.len();
                sent.extend_from_slice(chunk);
                output.advance(len);
            }
            session.output_written();
            if session.is_finished() {
                moved = true;
                *slot = None;
            }
        }
        tokio::task::yield_now().await;
        moved
    }
}
