//! Runs the contract that every storage must meet.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod backend;

broker_core::storage_contract!(backend::Sqlite);
