//! A real engine and real sessions, driven until nothing moves any more, with the clock stopped.

use std::sync::Arc;
use std::time::Duration;

use broker_core::engine::{Engine as _, Link};
use broker_core::local::{EngineSettings, LocalEngine};
use broker_core::policy::{Policies, TopicPolicy};
use broker_core::session::{Session, SessionSettings};
use bytes::{Buf as _, BytesMut};
use tokio::sync::mpsc::error::TryRecvError;

use super::said::Said;
use super::storage::InMemory;
use super::{CONNECTIONS, MAX_LINE};

/// Turns of the scheduler without a sign of life after which the broker has settled: more than the longest way between
/// two, that of a dead letter to another shard and of the answer back.
const QUIET_TURNS: usize = 32;

/// Turns in which it must have settled: what one piece of an input asks for is done in a few hundred.
const MOST_TURNS: usize = 20_000;

/// Output that may wait for a client in one turn, in bytes: the session's own limit, and an answer that goes beyond it.
const MOST_OUTPUT: usize = 4 << 20;

struct Connection {
    session: Session,
    link: Link,
    said: Said,
}

/// One broker and its connections.
pub(super) struct Broker {
    engine: LocalEngine<InMemory>,
    storage: Arc<InMemory>,
    settings: Arc<SessionSettings>,
    connections: [Option<Connection>; CONNECTIONS],
}

impl Broker {
    pub(super) async fn open(policy: TopicPolicy, slow: bool) -> Self {
        let storage = Arc::new(InMemory::new(if slow { (3, 9) } else { (0, 0) }));
        let settings = EngineSettings {
            shards: if slow { 2 } else { 1 },
            memory_budget_bytes: if slow { 0 } else { 1 << 20 },
            policies: Policies::new(vec![("*".to_owned(), policy)]),
            max_topics: 20,
            max_subscriptions: 20,
            ..EngineSettings::default()
        };
        let (engine, _) = LocalEngine::open(Arc::clone(&storage), settings).await.expect("there is nothing to recover");
        Self {
            engine,
            storage,
            settings: Arc::new(SessionSettings { max_line_bytes: MAX_LINE, ..SessionSettings::default() }),
            connections: Default::default(),
        }
    }

    /// Connects, if it is not connected.
    pub(super) async fn connect(&mut self, at: usize) {
        if self.connections[at].is_some() {
            return;
        }
        let link = self.engine.connect(format!("connection {at}"));
        let session = Session::new(Arc::clone(&self.settings), self.engine.level(), Arc::clone(&link.gauge));
        self.connections[at] = Some(Connection { session, link, said: Said::new(MAX_LINE) });
        self.settle().await;
    }

    /// The connection is gone, without a word.
    pub(super) async fn lose(&mut self, at: usize) {
        self.connections[at] = None;
        self.settle().await;
    }

    /// The client sends no more.
    pub(super) async fn end(&mut self, at: usize) {
        if let Some(connection) = &mut self.connections[at] {
            connection.session.end_of_input();
        }
        self.settle().await;
    }

    /// Bytes of a client.
    pub(super) async fn send(&mut self, at: usize, bytes: &[u8]) {
        if let Some(Connection { session, said, .. }) = &mut self.connections[at]
            && session.wants_input()
        {
            said.client(bytes);
            session.input(&mut BytesMut::from(bytes));
        }
        self.settle().await;
    }

    pub(super) async fn pass(&mut self, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        self.settle().await;
    }

    /// Every connection that is there is still served.
    pub(super) async fn finish(&mut self) {
        // More than a telnet command may swallow that was begun and never ended.
        const LINE_ENDS: usize = 1100;
        let last_words = [&[b'\n'; LINE_ENDS][..], b"ping\nquit\n"].concat();
        for at in 0..CONNECTIONS {
            self.send(at, &last_words).await;
            if let Some(connection) = &self.connections[at] {
                // It had ended before, and waits for nothing but that.
                assert!(!connection.session.wants_input(), "connection {at} was told to quit");
            }
        }
    }

    async fn settle(&mut self) {
        let (mut turns, mut quiet) = (0, 0);
        while quiet < QUIET_TURNS {
            quiet = if self.turn().await { 0 } else { quiet + 1 };
            turns += 1;
            assert!(turns < MOST_TURNS, "the broker does not come to rest");
        }
        for connection in self.connections.iter().flatten() {
            connection.said.is_answered();
        }
    }

    /// Lets everybody do something once. Returns whether anything could be seen of it.
    async fn turn(&mut self) -> bool {
        let mut moved = self.storage.turn();
        for slot in &mut self.connections {
            let Some(Connection { session, link, said }) = slot else { continue };
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
            assert!(output.remaining() < MOST_OUTPUT, "{} bytes wait for a client", output.remaining());
            while output.has_remaining() {
                moved = true;
                let chunk = output.chunk();
                said.broker(chunk);
                let len = chunk.len();
                output.advance(len);
            }
            session.output_written();
            if session.is_finished() {
                moved = true;
                said.is_answered();
                *slot = None;
            }
        }
        tokio::task::yield_now().await;
        moved
    }
}
