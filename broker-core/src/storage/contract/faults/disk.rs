//! Claims about a disk that is full or broken.

use super::super::{ContractBackend, Model};
use super::preload::{Errno, Faults, Operations, Plan};
use super::workload::{Seen, batches, chain, check, close_failed, commit_all, open, scratch};
use crate::storage::{StorageError, StorageErrorKind};

/// More operations than the workload has; a storage that never comes to an end is found out.
const FAR: u64 = 2_000;

/// Runs the workload once for every operation, which fails as planned; then with a disk that works again.
fn at_every_operation<B: ContractBackend>(faults: &Faults, plan: Plan, prepare: bool) {
    for at in 0..FAR {
        let dir = scratch();
        let data = dir.path().join("data");
        let mut before = Seen { history: vec![Model::default()], safe: 0, error: None };
        if prepare {
            // Dropped, not closed, so that there is something to recover.
            let (storage, found, _) = open::<B>(&data).expect("a new one opens");
            before = commit_all(&storage, &found, batches());
            assert_eq!(before.safe, batches().len(), "{:?}", before.error);
            drop(storage);
        }
        let what = format!("{:?} at {at}, lasting: {}", plan.error, plan.lasting);
        faults.arm(dir.path(), Plan { at, ..plan });
        let seen = match open::<B>(&data) {
            Err(error) => {
                assert!(faults.happened(), "{what}: nothing happened and it does not open: {}", chain(&error));
                assert_says_what_happened(&error, plan, &what);
                before
            }
            Ok((storage, found, _)) if prepare => {
                before.history[before.safe].assert_same(&found, &what);
                drop(storage);
                before
            }
            Ok((storage, found, _)) => {
                Model::default().assert_same(&found, &what);
                let seen = commit_all(&storage, &found, batches());
                let failed = faults.happened();
                if let Some(error) = &seen.error {
                    assert!(failed, "{what}: nothing happened: {}", chain(error));
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

/// What had passed when it was looked into may be called by a more general name.
fn assert_says_what_happened(error: &StorageError, plan: Plan, what: &str) {
    let text = chain(error);
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

/// Whatever needs space fails from some moment on. Nothing is confirmed from there, and once there is space again opening finds
/// everything that was, and no half batch.
pub fn no_space_at_any_operation_ends_confirmations_and_loses_nothing<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SPACE, at: 0, error: Errno::NoSpace, lasting: true };
    at_every_operation::<B>(faults, plan, false);
}

/// Space is back at once: the storage stays out of service until it is opened again all the same.
pub fn a_moment_without_space_is_not_forgotten<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SPACE, at: 0, error: Errno::NoSpace, lasting: false };
    at_every_operation::<B>(faults, plan, false);
}

/// As without space, with a disk that cannot write.
pub fn an_error_of_any_write_ends_confirmations_and_loses_nothing<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::CHANGES, at: 0, error: Errno::Io, lasting: false };
    at_every_operation::<B>(faults, plan, false);
}

/// One sync fails, the next would succeed: what waited for the first is not confirmed, nor anything after it.
pub fn a_failed_sync_is_never_made_good_by_a_later_one<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SYNCS, at: 0, error: Errno::Io, lasting: false };
    at_every_operation::<B>(faults, plan, false);
}

/// A start that fails for want of space changes nothing of what the next one finds.
pub fn no_space_during_recovery_loses_nothing<B: ContractBackend>(faults: &Faults) {
    let plan = Plan { operations: Operations::SPACE, at: 0, error: Errno::NoSpace, lasting: true };
    at_every_operation::<B>(faults, plan, true);
}
