//! The suite of faults that every storage is put through: a disk that is full or broken, files that are damaged, missing or
//! somebody else's, and a clock that jumps.
//!
//! Faults are put below the storage: a small library of our own goes in front of the C library, so what runs is the storage as
//! it is shipped, with its own files and threads. That needs Linux and a C compiler.
//!
//! | to find | look in |
//! | --- | --- |
//! | putting faults below a process | [`preload`] |
//! | what is written while it happens, and what must be found afterwards | [`workload`] |
//! | no space left, errors of writes and syncs | [`disk`] |
//! | truncated files, flipped bits | [`damage`] |
//! | files that are missing, or were not made by the storage | [`files`] |
//! | directories and files that belong to somebody else | [`owner`] |
//! | a clock that jumps between two starts | [`clock`] |

pub mod clock;
pub mod damage;
pub mod disk;
pub mod files;
pub mod owner;
pub mod preload;
pub mod workload;

/// One `#[test]` for each claim about faults, run over a
/// [`contract::ContractBackend`](crate::storage::contract::ContractBackend). It belongs at the top of a test of its own,
/// `tests/faults.rs`, whose tests are started once more as processes with faults below them.
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
