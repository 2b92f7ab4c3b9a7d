//! Drives a fixed set of events through the broker, so that `.ci/instructions` can count the instructions they cost.
//!
//! Each function `count_…` is one phase. The script runs this binary under `valgrind --tool=callgrind`, reads the instructions
//! spent in each phase and its callees, and divides them by the number of events printed for the phase. These functions are
//! therefore never inlined and do not call one another. Setup and cleanup happen outside them, unless they are part of the
//! broker's work.
//!
//! | phase | what is counted |
//! | --- | --- |
//! | `frame` | bytes to lines |
//! | `parse` | a `pub` line to a command and an event, encoded |
//! | `encode` | an event's encoding alone |
//! | `session-pub` | a session: bytes of `pub` lines to requests |
//! | `publish` | a topic accepts an event, emits its storage mutations, and handles the commit |
//! | `deliver` | a topic finds the next event and puts it in flight |
//! | `ack` | a topic acknowledges it and emits the storage mutations |
//! | `session-confirm` | a session: outcomes of publishes to bytes |
//! | `session-deliver` | a session: deliveries to bytes |
//! | `session-ack` | a session: bytes of `ack` lines to requests |
//! | `log-publish` | json-log: a batch of events to lines, and to the file |
//! | `log-ack` | json-log: the records that store a batch of acknowledgements |
//! | `whole` | session and engine together, over a storage that does nothing: published, confirmed, delivered, acknowledged |
//!
//! Nothing depends on a clock or waits for another thread. Only the random hash keys vary from run to run, and with them the
//! collisions in hash tables.
#![expect(clippy::print_stdout, reason = "it prints its results")]

mod events;
mod instant;
mod parts;
mod stored;
mod whole;

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of events in each phase.
const EVENTS: usize = 16_384;

/// The number of events that arrive, are stored, or are acknowledged together.
const BATCH: usize = 32;

fn main() {
    let phases = parts::run().into_iter().chain(stored::run()).chain(whole::run());
    for phase in phases {
        println!("{phase} {EVENTS}");
    }
}
