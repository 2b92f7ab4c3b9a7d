//! Sessions: what three connections send to one broker, and when they come and go.
//!
//! The first byte chooses the rules of topics, see [`policy`]. The rest is what connection 0 sends, up to a
//! [`MARK`]; the byte behind one says what happens next, see [`Step`].

mod broker;
pub(crate) mod said;
// The storage of the sessions that are held against a model: one for both.
#[path = "../../../broker-core/tests/sessions/storage.rs"]
pub(crate) mod storage;

use broker_core::policy::{DuplicateId, Overflow, TopicPolicy};

use crate::MARK;
use broker::Broker;

/// Connections that there can be.
const CONNECTIONS: usize = 3;

/// The longest line.
const MAX_LINE: usize = 300;

/// The meaning of a byte after a [`MARK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// `0`, `1`, `2`: what follows comes from this connection, which is made if it is not there.
    From(usize),
    /// `l`: the connection is lost.
    Lose,
    /// `e`: the client says that nothing more will come.
    End,
    /// `s`, `m`, `h`: a tenth of a second, a minute, an hour passes.
    Pass(u64),
    /// `|` and everything else: the bytes before come apart from those behind.
    Cut,
}

impl Step {
    fn of(byte: u8) -> Self {
        match byte {
            b'0'..=b'2' => Self::From(usize::from(byte - b'0')),
            b'l' => Self::Lose,
            b'e' => Self::End,
            b's' => Self::Pass(100),
            b'm' => Self::Pass(60_000),
            b'h' => Self::Pass(3_600_000),
            _ => Self::Cut,
        }
    }
}

/// The rules that a byte stands for: its bits switch them on.
fn policy(byte: u8) -> TopicPolicy {
    let on = |bit: u8| byte & (1 << bit) != 0;
    TopicPolicy {
        duplicate_id: match byte & 3 {
            0 | 3 => DuplicateId::Replace,
            1 => DuplicateId::Reject,
            _ => DuplicateId::Keep,
        },
        max_waiting: if on(2) { 3 } else { 0 },
        overflow: match (on(3), on(4)) {
            (false, false) => Overflow::Reject,
            (true, _) => Overflow::DropLowest,
            (false, true) => Overflow::DeadLetter,
        },
        max_deliveries: if on(4) { 2 } else { 0 },
        ack_timeout_ms: if on(5) { 1000 } else { 0 },
        ttl_ms: if on(6) { 5000 } else { 0 },
        expired_to_dead_letter: on(4),
        ..TopicPolicy::default()
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("there is a thread");
    runtime.block_on(async {
        // The last bit: two shards, events that do not stay in memory, and a storage that takes its time.
        let mut broker = Broker::open(policy(*choice), choice & 0x80 != 0).await;
        broker.connect(0).await;
        let mut pieces = rest.split(|byte| *byte == MARK);
        broker.send(0, pieces.next().unwrap_or_default()).await;
        let mut at = 0;
        for piece in pieces {
            let Some((step, bytes)) = piece.split_first() else { continue };
            match Step::of(*step) {
                Step::From(connection) => {
                    at = connection;
                    broker.connect(at).await;
                }
                Step::Lose => broker.lose(at).await,
                Step::End => broker.end(at).await,
                Step::Pass(ms) => broker.pass(ms).await,
                Step::Cut => {}
            }
            broker.send(at, bytes).await;
        }
        broker.finish().await;
    });
}
