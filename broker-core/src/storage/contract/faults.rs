//! The suite of faults that every storage has to withstand: full and failing disks, damaged, missing and foreign files, and a
//! clock that jumps.
//!
//! Faults are injected below the storage, by a small library that is preloaded before the C library. So the storage runs as it is
//! shipped, with its own files and threads. This needs Linux and a C compiler.
//!
//! | to find | look in |
//! | --- | --- |
//! | injecting faults into a process | [`preload`] |
//! | the batches written under faults, and the states that may follow | [`workload`] |
//! | no space left, errors of writes and syncs | [`disk`] |
//! | truncated files, flipped bits | [`damage`] |
//! | missing files, and files of another origin | [`files`] |
//! | directories and files of another user | [`owner`] |
//! | a clock that jumps between two starts | [`clock`] |

pub mod clock;
pub mod damage;
pub mod disk;
pub mod files;
pub mod owner;
pub mod preload;
pub mod workload;

/// One `#[test]` for each claim about faults, run over a
/// [`contract::ContractBackend`](crate::storage::contract::ContractBackend). It belongs at the top of a test file of its own,
/// `tests/faults.rs`, whose tests start themselves again as processes with injected faults.
#[macro_export]
macro_rules! storage_faults {
    ($backend:ty) => {
        $crate::storage_faults! { @claims $backend:
            disk::no_space_at_any_operation_ends_confirmations_and_loses_nothing,
            disk::a_moment_without_space_is_not_forgotten,
            disk::an_error_of_any_write_ends_confirmations_and_loses_nothing,
            disk::a_failed_sync_is_never_made_good_by_a_later_one,
            disk::no_space_during_recovery_loses_nothing,
            damage::a_file_cut_anywhere_in_its_last_batch_keeps_what_was_before,
            damage::a_flipped_bit_is_never_silent,
            files::a_missing_file_is_never_silent,
            files::stray_files_and_directories_are_left_alone,
            owner::what_belongs_to_another_user_is_refused_untouched,
            clock::order_delays_and_expiry_survive_a_clock_that_jumps,
        }
    };
    (@claims $backend:ty: $($module:ident::$claim:ident),+ $(,)?) => {
        $(
            #[test]
            #[cfg_attr(not(target_os = "linux"), ignore = "needs a library in front of the C library")]
            fn $claim() {
                $crate::storage::contract::faults::preload::run(stringify!($claim), |faults| {
                    $crate::storage::contract::faults::$module::$claim::<$backend>(faults);
                });
            }
        )+
    };
}
