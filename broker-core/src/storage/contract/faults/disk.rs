//! Claims about full and failing disks.

use super::super::{ContractBackend, Model};
use super::preload::{Errno, Faults, Operations, Plan};
use super::workload::{Seen, batches, check, close_failed, commit_all, open, scratch};
use crate::error_chain;
use crate::storage::{StorageError, StorageErrorKind};

/// More operations than the workload has, which bounds a storage that never finishes.
const FAR: u64 = 2_000;

/// Runs the workload once for each operation, with that one failing as planned, and then with a working disk.
fn at_every_operation<B: ContractBackend>(faults: &Faults, plan: Plan, prepare: bool) {
    for at in 0..FAR {
        let dir = scratch();
        let data = dir.path().join("data");
        let mut before = Seen { history: vec![Model::default()], durable: 0, error: None };
        if prepare {
            // Dropped, not closed, so that there is something to recover.
            let (storage, found, _) = open::<B>(&data).expect("a new one opens");
            before = commit_all(&storage, &found, batches());
            assert_eq!(before.durable, batches().len(), "{:?}", before.error);
            drop(storage);
        }
        let what = format!("{:?} at {at}, lasting: {}", plan.error, plan.lasting);
        faults.arm(dir.path(), Plan { at, ..plan });
        let seen = match open::<B>(&data) {
            Err(error) => {
                assert!(faults.happened(), "{what}: nothing happened and it does not open: {}", error_chain(&error));
                assert_says_what_happened(&error, plan, &what);
                before
            }
            Ok((storage, found, _)) if prepare => {
                before.history[before.durable].assert_same(&found, &what);
                drop(storage);
                before
            }
            Ok((storage, found, _)) => {
                Model::default().assert_same(&found, &what);
                let seen = commit_all(&storage, &found, batches());
                let failed = faults.happened();
                if let Some(error) = &seen.error {
                    assert!(failed, "{what}: nothing happened: {}", error_chain(error));
                    assert_says_what_happened(error, plan, &what);
                }
                close_failed(storage, seen.error.is_some());
                seen
            }
        };
        let over = !faults.happened();
        faults.disarm();
        check::<B>(&data, &seen, &what);
        if over {
            assert!(at > 0 && (prepare || at > 5), "only {at} operations could fail: too few to show anything");
            return;
        }
    }
    panic!("{FAR} operations failed and there are still more");
}

/// A cause that had passed when it was examined may be reported by a more general kind.
fn assert_says_what_happened(error: &StorageError, plan: Plan, what: &str) {
    let text = error_chain(error);
    let kind = error.kind();
    match plan.error {
        Errno::NoSpace => {
            let says_so = kind == StorageErrorKind::Full && text.to_lowercase().contains("no space left");
            assert!(says_so || (!plan.lasting && kind == StorageErrorKind::Failed), "{what}: {kind:?}: {text}");
        }
        Errno::Io => {
            let named = ["os error 5", "i/o error", "input/output error", "unable to open"];
            let says_so = named.iter().any(|name| text.to_lowercase().contains(name));
            assert!(says_so && kind == StorageErrorKind::Failed, "{what}: {kind:?}: {text}");
        }
    }
}

/// From some moment on every operation that needs space fails. Nothing is confirmed after that, and once there is space again,
/// opening finds everything confirmed, and only whole batches.
pub fn no_space_at_any_operation_ends_confirmations_and_loses_nothing<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SPACE, at: 0, error: Errno::NoSpace, lasting: true };
    at_every_operation::<B>(faults, plan, false);
}

/// Even if space returns at once, the storage stays out of service until it is reopened.
pub fn a_moment_without_space_is_not_forgotten<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SPACE, at: 0, error: Errno::NoSpace, lasting: false };
    at_every_operation::<B>(faults, plan, false);
}

/// The same as without space, on a disk that cannot write.
pub fn an_error_of_any_write_ends_confirmations_and_loses_nothing<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::CHANGES, at: 0, error: Errno::Io, lasting: false };
    at_every_operation::<B>(faults, plan, false);
}

/// One sync fails and the next would succeed. Neither the batches of the first nor any later ones are confirmed.
pub fn a_failed_sync_is_never_made_good_by_a_later_one<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SYNCS, at: 0, error: Errno::Io, lasting: false };
    at_every_operation::<B>(faults, plan, false);
}

/// A start that fails for lack of space does not change what the next one finds.
pub fn no_space_during_recovery_loses_nothing<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SPACE, at: 0, error: Errno::NoSpace, lasting: true };
    at_every_operation::<B>(faults, plan, true);
}
