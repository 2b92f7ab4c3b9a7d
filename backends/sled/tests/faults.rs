//! Runs the fault suite: full and broken disks, damaged, missing and foreign files, and a clock that jumps.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod backend;

broker_core::storage_faults!(backend::Sled);
