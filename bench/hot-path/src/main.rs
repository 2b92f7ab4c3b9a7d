//! Drives an event's way through the broker, the same events each time, for `.ci/instructions` to count what it costs.
//!
//! Each function `count_…` is one phase; the script runs this under `valgrind --tool=callgrind`, takes from it the instructions
//! spent in each of them and in what they call, and divides them by the events that this prints for the phase. So these
//! functions are never inlined, and do not call one another. What they need is made, and what they leave is dropped, outside them
//! wherever that is not part of the broker's work.
//!
//! | phase | what is counted |
//! | --- | --- |
//! | `frame` | bytes to lines |
//! | `parse` | a `pub` line to a command and an event, encoded |
//! | `encode` | an event's encoding alone |
//! | `session-pub` | a session: bytes of `pub` lines to requests |
//! | `publish` | a topic takes an event in, hears that it is stored, and says what is to be stored |
//! | `deliver` | a topic finds the next event and puts it in flight |
//! | `ack` | a topic acknowledges it, and says what is to be stored |
//! | `session-confirm` | a session: outcomes of publishes to bytes |
//! | `session-deliver` | a session: deliveries to bytes |
//! | `session-ack` | a session: bytes of `ack` lines to requests |
//! | `log-publish` | json-log: a batch of events to lines, and to the file |
//! | `log-ack` | json-log: what acknowledgements of a batch are stored as |
//! | `whole` | session and engine together, over a storage that does nothing: published, confirmed, delivered, acknowledged |
//!
//! No clock decides anything here and nothing waits for another thread. What varies from run to run are the keys of hashes, drawn at
//! random, and with them which rows of a table collide.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod events;
mod instant;
mod parts;
mod stored;
mod whole;

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events of each phase.
const EVENTS: usize = 16_384;

/// Events that arrive, are stored, or are acknowledged together.
const BATCH: usize = 32;

fn main() {
    let phases = parts::run().into_iter().chain(stored::run()).chain(whole::run());
    for phase in phases {
        println!("{phase} {EVENTS}");
    }
}
