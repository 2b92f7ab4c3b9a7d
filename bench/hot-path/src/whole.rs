//! One client's session and the engine, on one thread, as a transport drives them.

use std::sync::Arc;

use broker_core::engine::{Engine, Link, LinkEvent};
use broker_core::local::{EngineSettings, LocalEngine};
use broker_core::session::{Session, SessionSettings};
use bytes::{Buf, BytesMut};
use tokio::runtime::Runtime;

use crate::events;
use crate::instant::InstantStorage;
use crate::{BATCH, EVENTS};

/// Runs all phases in this module and returns their names.
pub(crate) fn run() -> Vec<&'static str> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let open = LocalEngine::open(Arc::new(InstantStorage::default()), EngineSettings::default());
    let (engine, _report) = runtime.block_on(open).expect("nothing to recover");
    let mut client = runtime.block_on(async { Client::new(&engine) });
    let hello = "hello {\"confirm\":true,\"prefetch\":256}\r\nsub bench inbox\r\n";
    runtime.block_on(client.say(&mut BytesMut::from(hello), 1, 0));
    for first in (0..EVENTS).step_by(BATCH) {
        let publish = events::publish_lines(first..first + BATCH);
        let acknowledge = events::ack_lines((first..first + BATCH).map(events::id));
        count_whole(&runtime, &mut client, publish, acknowledge);
    }
    runtime.block_on(engine.close());
    vec!["whole"]
}

#[inline(never)]
fn count_whole(runtime: &Runtime, client: &mut Client, mut publish: BytesMut, mut acknowledge: BytesMut) {
    runtime.block_on(async {
        client.say(&mut publish, BATCH, BATCH).await;
        client.say(&mut acknowledge, BATCH, 0).await;
    });
}

struct Client {
    session: Session,
    link: Link,
}

impl Client {
    fn new(engine: &dyn Engine) -> Self {
        let link = engine.connect("hot-path".to_owned());
        let session = Session::new(Arc::new(SessionSettings::default()), engine.level(), Arc::clone(&link.gauge));
        Self { session, link }
    }

    /// Sends `input` and processes the results until `outcomes` and `deliveries` have arrived.
    async fn say(&mut self, input: &mut BytesMut, mut outcomes: usize, mut deliveries: usize) {
        self.session.input(input);
        let requests = self.session.take_requests();
        self.link.requests.send(requests).await.expect("the engine is there");
        while outcomes > 0 || deliveries > 0 {
            for event in self.link.events.recv().await.expect("the engine is there") {
                match &event {
                    LinkEvent::Outcomes(some) => outcomes -= some.len(),
                    LinkEvent::Deliveries(some) => deliveries -= some.len(),
                    LinkEvent::Removed { .. } => {}
                }
                self.session.event(event);
            }
            let output = self.session.output();
            output.advance(output.remaining());
            self.session.output_written();
        }
    }
}
