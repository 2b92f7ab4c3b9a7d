//! The suite that every storage runs: one test for each claim of the [`Storage`] contract.
//!
//! A backend's author enables the feature `contract-tests` of this crate for tests and writes in `tests/contract.rs`
//!
//! ```ignore
//! struct Mine;
//!
//! impl broker_core::storage::contract::ContractBackend for Mine { /* open, make_newer */ }
//!
//! broker_core::storage_contract!(Mine);
//! ```
//!
//! The tests use a storage from outside: through the trait alone, and through a [`crate::local::LocalEngine`] over it. They compare
//! what it hands back with a [`Model`] of what was submitted, so that a log and a store that keeps state can both pass.
//!
//! | to find | look in |
//! | --- | --- |
//! | the state that a storage must remember | [`model`] |
//! | a storage in a temporary directory, opened again and again | [`bench`](mod@bench) |
//! | order of stages and batches, atomicity | [`order`] |
//! | the state after a clean and an unclean stop | [`restarts`] |
//! | reading by key | [`reads`] |
//! | names, events and batches at their limits; memory during recovery | [`limits`] |
//! | the engine over it: acknowledgements, delays, counts, order | [`engine`] |
//! | locks, other formats, closing, space | [`lifecycle`] |
//! | failing and full disks, damaged and missing files, jumping clocks | [`faults`] |
//! | killed processes | [`kill`] |
//!
//! The last two take a test binary of their own, since they start it again as another process.

#![expect(clippy::missing_panics_doc, reason = "a claim that does not hold panics, as a test does")]

pub mod bench;
pub mod client;
pub mod engine;
pub mod faults;
pub mod kill;
pub mod lifecycle;
pub mod limits;
pub mod model;
pub mod order;
pub mod reads;
pub mod restarts;

use std::path::Path;

pub use bench::Bench;
pub use model::Model;

use super::{Storage, StorageError};

/// A backend, as the suite uses it.
pub trait ContractBackend: Send + Sync + 'static {
    /// The storage.
    type Storage: Storage;

    /// Opens the data directory `dir`, which may not exist yet, with the strongest durability. A backend that frees space in
    /// steps, such as segments, sets them to a few MiB.
    ///
    /// # Errors
    /// Those of the backend.
    fn open(dir: &Path) -> Result<Self::Storage, StorageError>;

    /// Changes the closed data directory `dir`, which this backend has created, to a later format version.
    fn make_newer(dir: &Path);
}

/// One `#[tokio::test]` for each claim of the storage contract, run over a [`contract::ContractBackend`](crate::storage::contract::ContractBackend).
/// The crate needs tokio with `macros` and `rt-multi-thread` for its tests.
#[macro_export]
macro_rules! storage_contract {
    ($backend:ty) => {
        $crate::storage_contract! { @claims $backend:
            order::stages_complete_in_the_order_of_submission,
            order::nothing_is_durable_before_it_is_written,
            order::batches_take_effect_in_the_order_of_the_calls_whichever_task_makes_them,
            order::a_dropped_storage_holds_whole_batches_and_none_without_those_before_it,
            order::mutations_of_a_batch_take_effect_in_their_order,
            restarts::a_new_storage_hands_back_nothing,
            restarts::everything_comes_back_after_a_close,
            restarts::everything_written_comes_back_after_a_drop,
            restarts::random_histories_come_back,
            restarts::sequences_are_not_used_twice_after_everything_is_gone,
            restarts::a_subscription_made_again_holds_nothing_from_before,
            restarts::an_event_without_holders_takes_no_other_with_it,
            restarts::a_moved_event_comes_back_with_exactly_its_holders,
            restarts::cursors_come_back_with_the_batch_that_they_came_with,
            restarts::a_topic_comes_back_with_the_sequence_that_an_import_gave_it,
            restarts::a_forgotten_topic_is_gone_and_another_of_its_name_keeps_its_events,
            reads::events_are_read_in_the_order_of_the_keys,
            reads::nothing_is_read_for_what_is_gone,
            reads::an_event_is_readable_as_soon_as_it_is_written,
            reads::readers_and_submitters_run_side_by_side,
            limits::names_at_the_limit_come_back,
            limits::numbers_at_the_limit_come_back,
            limits::events_of_a_mebibyte_come_back,
            limits::an_empty_batch_completes,
            limits::a_batch_of_a_hundred_thousand_mutations_is_one_batch,
            limits::ten_thousand_topics_come_back,
            limits::recovery_does_not_hold_the_backlog_in_memory,
            engine::a_backlog_is_delivered_in_priority_order_after_a_restart,
            engine::a_backlog_beyond_the_memory_budget_is_read_back_in_order,
            engine::acknowledged_events_stay_away_after_a_restart,
            engine::delivery_counts_and_delays_survive_restarts,
            engine::a_replaced_event_does_not_come_back,
            engine::a_sources_cursor_moves_with_its_events,
            engine::publishers_and_consumers_side_by_side_lose_nothing,
            lifecycle::opening_it_twice_is_refused_and_says_who_has_it,
            lifecycle::closing_frees_the_directory_and_later_calls_fail,
            lifecycle::a_newer_format_is_refused_and_left_alone,
            lifecycle::a_directory_of_another_kind_is_refused_and_left_alone,
            lifecycle::statistics_count_batches_and_bytes,
            lifecycle::space_of_what_is_gone_comes_back,
        }
    };
    (@claims $backend:ty: $($module:ident::$claim:ident),+ $(,)?) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                $crate::storage::contract::$module::$claim::<$backend>().await;
            }
        )+
    };
}
