//! Every input in `fuzz/corpus` through its target.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fuzz_targets::TARGETS;

/// Replays the inputs of one target; fails with the names of those that fail.
fn replay(name: &str) {
    let (_, run) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target of that name");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 5, "{} has {} inputs", folder.display(), inputs.len());
    let fails = |path: &&std::path::PathBuf| {
        let input = fs::read(path).expect("an input can be read");
        catch_unwind(AssertUnwindSafe(|| run(&input))).is_err()
    };
    let failed: Vec<_> = inputs.iter().filter(fails).filter_map(|path| path.file_name()).collect();
    assert!(failed.is_empty(), "of {}: {failed:?}", folder.display());
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn no_target_is_left_out() {
            let replayed = [$(stringify!($target)),*];
            let targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(targets, replayed);
        }
    };
}

replays! { command configuration event lines recovery session sse websocket }
