//! One connection: moves lines between a wire and a session, and requests and events between the session and the engine.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use broker_core::engine::{EngineGone, Link, LinkEvent};
use broker_core::session::Session;
use broker_core::transport::Broker;
use bytes::Buf as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::ListenConfig;
use crate::ended::Ended;
use crate::gate::Gate;
use crate::wire::Wire;

/// The most batches of link events that are handled before their output is written.
const EVENTS: usize = 64;

/// Serves a client until it, the engine or `shutdown` ends it.
pub(crate) async fn run(
    mut wire: impl Wire,
    peer: SocketAddr,
    broker: Broker,
    config: &ListenConfig,
    shutdown: CancellationToken,
) -> Ended {
    let link = broker.engine.connect(peer.to_string());
    let gate = Gate::new(Arc::clone(&broker.session.tokens), peer.ip());
    let session = Session::new(broker.session, broker.engine.level(), link.gauge.clone());
    // `converse` owns the link and drops it: what is in flight goes back at once, however long the goodbye takes.
    let ended = converse(&mut wire, link, session, gate, config, shutdown).await;
    wire.close(&ended).await;
    ended
}

async fn converse(
    wire: &mut impl Wire,
    link: Link,
    mut session: Session,
    mut gate: Gate,
    config: &ListenConfig,
    shutdown: CancellationToken,
) -> Ended {
    let Link { mut requests, mut events, .. } = link;
    let mut received = Vec::new();
    let mut stopping = false;
    let mut engine_gone = false;
    let mut heard = Instant::now();
    loop {
        gate.look(&mut session);
        // The engine never waits for a client, so its events are taken even while it cannot take requests.
        let batch = session.take_requests();
        if !batch.is_empty() && send(requests.send(batch), &mut events, &mut session).await.is_err() {
            engine_gone = true;
            session.engine_gone();
        }
        if session.output().has_remaining() {
            // Outside the select, so that nothing can drop it half-written; a client that does not read costs one time-out.
            if let Err(ended) = wire.send(session.output(), config.write_timeout).await {
                return ended;
            }
            session.output().shrink();
            session.output_written();
            heard = Instant::now();
            continue;
        }
        if session.is_finished() {
            if let Some(foreign) = session.foreign() {
                return Ended::Foreign(foreign);
            }
            return match (session.is_turned_away(), stopping, engine_gone) {
                (true, _, _) => Ended::TurnedAway,
                (false, true, _) => Ended::Shutdown,
                (false, false, true) => Ended::EngineGone,
                (false, false, false) => Ended::ByClient,
            };
        }
        let idle = async {
            match config.idle_timeout {
                Some(limit) => tokio::time::sleep_until(heard + limit).await,
                None => std::future::pending().await,
            }
        };
        let wants_input = session.wants_input();
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if !stopping => {
                // A token that waits for its check would delay the stop.
                if session.has_claim() {
                    return Ended::Shutdown;
                }
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
            () = gate.opens() => gate.pass(&mut session),
            read = wire.receive(&mut session), if wants_input => {
                heard = Instant::now();
                if let Err(ended) = read {
                    return ended;
                }
            }
            () = idle => return Ended::Idle(heard.elapsed()),
        }
    }
}

/// Sends requests to the engine, and takes its events while that waits.
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
