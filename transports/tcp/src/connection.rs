//! One connection: moves bytes between a socket and a session, and requests and events between the session and the engine.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use broker_core::engine::{EngineGone, Link, LinkEvent};
use broker_core::session::Session;
use broker_core::transport::Broker;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::TcpConfig;

/// Bytes read at a time. The buffer lives only while there is something to read, so that idle connections cost none.
const READ: usize = 64 * 1024;

/// Pieces of link events handled before their output is written.
const EVENTS: usize = 64;

/// Why a connection ended; for the log.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client quit or closed, and everything was answered.
    ByClient,
    /// The socket failed.
    Socket(std::io::Error),
    /// The client did not take its output in time.
    NotReading(Duration),
    /// Nothing was said for too long.
    Idle(Duration),
    /// The broker is stopping.
    Shutdown,
    /// The engine has closed the link and goes on with another one.
    EngineGone,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClient => f.write_str("closed by the client"),
            Self::Socket(error) => write!(f, "{error}"),
            Self::NotReading(limit) => write!(f, "output not taken for {} ms", limit.as_millis()),
            Self::Idle(limit) => write!(f, "silent for {} ms", limit.as_millis()),
            Self::Shutdown => f.write_str("the broker is stopping"),
            Self::EngineGone => f.write_str("the storage was opened again"),
        }
    }
}

/// Serves a client until it, the engine or `shutdown` ends it.
pub(crate) async fn run(
    mut stream: TcpStream,
    peer: SocketAddr,
    broker: Broker,
    config: &TcpConfig,
    shutdown: CancellationToken,
) -> Ended {
    let Link { mut requests, mut events, gauge } = broker.engine.connect(peer.to_string());
    let mut session = Session::new(broker.session, broker.engine.level(), gauge);
    let mut received = Vec::new();
    let mut stopping = false;
    let mut engine_gone = false;
    let mut heard = Instant::now();
    loop {
        // The engine never waits for a client, so its events are taken even while it cannot take requests.
        let batch = session.take_requests();
        if !batch.is_empty() && send(requests.send(batch), &mut events, &mut session).await.is_err() {
            engine_gone = true;
            session.engine_gone();
        }
        if session.output().has_remaining() {
            // Outside the select, so that nothing can drop it half-written; a client that does not read costs one time-out.
            // It is for each step: a slow client that takes what it gets is none that does not read.
            while session.output().has_remaining() {
                match timeout(config.write_timeout(), stream.write_buf(session.output())).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Ended::Socket(error),
                    Err(_elapsed) => return Ended::NotReading(config.write_timeout()),
                }
            }
            session.output().shrink();
            session.output_written();
            heard = Instant::now();
            continue;
        }
        if session.is_finished() {
            // What it has in flight goes back at once, however long the goodbye takes.
            drop((requests, events));
            say_goodbye(&mut stream).await;
            return match (stopping, engine_gone) {
                (true, _) => Ended::Shutdown,
                (false, true) => Ended::EngineGone,
                (false, false) => Ended::ByClient,
            };
        }
        let idle = async {
            match config.idle_timeout() {
                Some(limit) => tokio::time::sleep_until(heard + limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                session.end_of_input();
            }
            count = events.recv_many(&mut received, EVENTS) => {
                if count == 0 {
                    if stopping {
                        return Ended::Shutdown;
                    }
                    engine_gone = true;
                    session.engine_gone();
                }
                received.drain(..).flatten().for_each(|event| session.event(event));
                if received.capacity() > EVENTS {
                    received = Vec::new();
                }
            }
            ready = stream.ready(Interest::READABLE), if session.wants_input() => {
                let mut input = BytesMut::with_capacity(READ);
                match ready.and_then(|_| stream.try_read_buf(&mut input)) {
                    Ok(0) => session.end_of_input(),
                    Ok(_) => {
                        heard = Instant::now();
                        session.input(&mut input);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Ended::Socket(error),
                }
            }
            () = idle => return Ended::Idle(heard.elapsed()),
        }
    }
}

/// Ends the stream so that what was written arrives: closing a socket with unread input resets the connection, and takes away
/// what the client has not read yet. A client that goes on sending is listened to for a moment.
async fn say_goodbye(stream: &mut TcpStream) {
    const QUIET: Duration = Duration::from_millis(50);
    const AT_MOST: Duration = Duration::from_secs(1);
    let listen = async {
        stream.shutdown().await?;
        let mut ignored = [0; 4096];
        while let Ok(read) = timeout(QUIET, stream.read(&mut ignored)).await {
            if read? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    let _client_gone_or_still_sending = timeout(AT_MOST, listen).await;
}

/// Hands requests over, taking what comes out meanwhile.
async fn send(
    sending: impl Future<Output = Result<(), EngineGone>>,
    events: &mut tokio::sync::mpsc::Receiver<Vec<LinkEvent>>,
    session: &mut Session,
) -> Result<(), EngineGone> {
    tokio::pin!(sending);
    loop {
        tokio::select! {
            biased;
            sent = &mut sending => return sent,
            event = events.recv() => match event {
                Some(piece) => piece.into_iter().for_each(|event| session.event(event)),
                None => return Err(EngineGone),
            },
        }
    }
}
