//! Claims about truncated files and flipped bits.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::super::bench::{cursor, event, files, key, settle, subscribe, topic};
use super::super::{ContractBackend, Model};
use super::preload::Faults;
use super::workload::{batches, commit_all, open, runtime, scratch};
use crate::error_chain;
use crate::event::Payload;
use crate::storage::{Mutation, ReadKey, Storage, StorageError, StorageErrorKind};

/// Set by hand to try every cut and many more bits, which takes minutes.
const ALL: &str = "FAULTS_OF_HERALD_ALL";

/// Cuts tried in one file. Those near both ends of what the last batch wrote are tried byte by byte, the others in steps.
const CUTS: usize = 400;

/// Bits flipped, ordinarily and by the thorough run.
const FLIPS: [usize; 2] = [150, 5_000];

fn is_thorough() -> bool {
    std::env::var_os(ALL).is_some()
}

/// The files below a directory, with their bytes.
type Files = Vec<(PathBuf, Vec<u8>)>;

/// Writes files, with their directories, below an empty `dir`.
fn restore(from: &Path, all: &Files, dir: &Path) {
    for (path, bytes) in all {
        let path = dir.join(path.strip_prefix(from).expect("it is below"));
        fs::create_dir_all(path.parent().expect("it has a directory")).expect("it can be made");
        fs::write(path, bytes).expect("it can be written");
    }
}

/// A storage that stopped without closing: its files before and after the last batch, and the corresponding states.
fn before_and_after<B: ContractBackend>(data: &Path) -> ([Files; 2], [Model; 2]) {
    let (storage, found, _) = open::<B>(data).expect("a new one opens");
    let mut all = batches();
    let last = all.pop().expect("there are some");
    let seen = commit_all(&storage, &found, all);
    assert!(seen.error.is_none(), "{:?}", seen.error);
    let before = files(data);
    let state = seen.history[seen.durable].clone();
    let seen = commit_all(&storage, &state, vec![last]);
    assert!(seen.error.is_none(), "{:?}", seen.error);
    ([before, files(data)], [state, seen.history[1].clone()])
}

/// However much of the last batch's bytes is missing, everything before it is present, and the batch is present whole or not
/// at all.
pub fn a_file_cut_anywhere_in_its_last_batch_keeps_what_was_before<B: ContractBackend>(_faults: &Faults) {
    let dir = scratch();
    let data = dir.path().join("data");
    let ([before, after], states) = before_and_after::<B>(&data);
    let mut cuts = 0;
    for (index, (path, bytes)) in after.iter().enumerate() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let old = before.iter().find(|(other, _)| other == path).map_or(&[][..], |(_, bytes)| bytes);
        let first = old.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        // SQLite's index, which is rebuilt, and notes, which are overwritten, are not records.
        if first == bytes.len() || name.ends_with("-shm") || name == "LOCK" || name == "mark" {
            continue;
        }
        for at in cut_points(first, bytes.len()) {
            let mut cut = after.clone();
            cut[index].1.truncate(at);
            let copy = scratch();
            restore(&data, &cut, copy.path());
            let what = format!("{name} cut at {at} of {first} to {}", bytes.len());
            let (storage, found, report) =
                open::<B>(copy.path()).unwrap_or_else(|error| panic!("{what}: {}", error_chain(&error)));
            let is_one_of_them = states.iter().any(|state| state.needed() == found.needed());
            assert!(is_one_of_them && report.damaged == 0, "{what}: {report:?}, {:#?}", found.needed());
            drop(storage);
            cuts += 1;
        }
    }
    assert!(cuts >= 100, "only {cuts} cuts: too few to show anything");
}

fn cut_points(first: usize, end: usize) -> BTreeSet<usize> {
    if end - first <= CUTS || is_thorough() {
        return (first..end).collect();
    }
    let near = CUTS / 4;
    let step = (end - first) / (CUTS / 2);
    (first..first + near).chain(end - near..end).chain((first..end).step_by(step)).collect()
}

/// A storage of some thousand records, closed.
fn make_long<B: ContractBackend>(data: &Path) -> Model {
    let (storage, found, _) = open::<B>(data).expect("a new one opens");
    let mut batches = vec![vec![subscribe("orders", "billing", 0), subscribe("orders", "audit", 0)]];
    for batch in 0..30 {
        let seqs = batch * 30 + 1..=batch * 30 + 30;
        let mut mutations: Vec<_> =
            seqs.map(|seq| Mutation::Publish(event("orders", (seq % 3) as i32, seq, 250))).collect();
        mutations.push(cursor("feed", batch));
        batches.push(mutations);
        let of_priority_0 = (batch * 30 + 1..=batch * 30 + 12).filter(|seq| seq.is_multiple_of(3));
        batches.push(vec![settle("orders", "billing", of_priority_0)]);
    }
    let seen = commit_all(&storage, &found, batches);
    assert!(seen.error.is_none(), "{:?}", seen.error);
    runtime().block_on(storage.close()).expect("the last sync succeeds");
    seen.history.last().cloned().unwrap_or_default()
}

/// xorshift, good enough to choose bits.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as usize
}

/// A bit flipped anywhere in any file has no effect, or is counted as damage, or the storage refuses to start and says where.
/// Only events that were written are handed back, and a read returns the right payload or none.
pub fn a_flipped_bit_is_never_silent<B: ContractBackend>(_faults: &Faults) {
    let dir = scratch();
    let data = dir.path().join("data");
    let expected = make_long::<B>(&data);
    let all = files(&data);
    let total: usize = all.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for number in 0..FLIPS[usize::from(is_thorough())] {
        // Every third one in a small file, which random choice would hardly ever hit.
        let (index, byte) = if number % 3 == 0 {
            let index = random(&mut seed) % all.len();
            if all[index].1.is_empty() {
                continue;
            }
            (index, random(&mut seed) % all[index].1.len())
        } else {
            let mut at = random(&mut seed) % total;
            let index = all.iter().position(|(_, bytes)| {
                let here = at < bytes.len();
                at -= if here { 0 } else { bytes.len() };
                here
            });
            (index.expect("it is below the total"), at)
        };
        let bit = random(&mut seed) % 8;
        let mut flipped = all.clone();
        flipped[index].1[byte] ^= 1 << bit;
        let copy = scratch();
        restore(&data, &flipped, copy.path());
        let what = format!("bit {bit} of byte {byte} of {}", all[index].0.display());
        let opened = catch_unwind(AssertUnwindSafe(|| open::<B>(copy.path())));
        match opened.unwrap_or_else(|_panic| panic!("{what}: it panicked")) {
            Err(error) => assert_refusal(&error, copy.path(), &what),
            Ok((storage, found, report)) => {
                let noticed = report.damaged > 0 || report.torn_bytes > 0;
                if !noticed {
                    expected.assert_same(&found, &what);
                }
                assert_sound(&storage, &expected, &found, &what);
            }
        }
    }
}

fn assert_refusal(error: &StorageError, dir: &Path, what: &str) {
    let text = error_chain(error);
    assert_eq!(error.kind(), StorageErrorKind::Unusable, "{what}: {text}");
    assert!(text.contains(&dir.display().to_string()), "{what}: it says where: {text}");
}

/// Checks that nothing was handed back that was not written.
fn assert_sound(storage: &impl Storage, expected: &Model, found: &Model, what: &str) {
    let (mut keys, mut payloads): (Vec<ReadKey>, Vec<Payload>) = (Vec::new(), Vec::new());
    for (name, there) in &found.topics {
        for (seq, held) in &there.events {
            let written = expected.topics.get(name).and_then(|topic| topic.events.get(seq));
            let written = written.unwrap_or_else(|| panic!("{what}: event {seq} of {name} was never written"));
            assert!(written.event == held.event, "{what}: event {seq} of {name} is {:?}", held.event);
            let place = found.places.get(&(name.clone(), *seq)).copied().unwrap_or_default();
            let key = key(held.event.key.priority.0, *seq);
            keys.push(ReadKey { topic: topic(name), key, place });
            payloads.push(held.event.payload.clone());
        }
    }
    let read = runtime().block_on(storage.read(keys));
    let read = read.unwrap_or_else(|error| panic!("{what}: {}", error_chain(&error)));
    let same = read.iter().zip(&payloads).all(|(read, payload)| read.as_ref().is_none_or(|read| read == payload));
    assert!(same, "{what}: something else was read than was written");
}
