//! The configuration: a `herald.toml`, on the way that `herald serve` and `herald config show` take.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use herald::settings::{FileLayer, Inputs, Loaded, SettingsError, changes, load, show};

/// Runs one input.
pub fn run(data: &[u8]) {
    let loaded = match read(data) {
        Ok(loaded) => loaded,
        Err(error) => {
            assert!(!error.problems.is_empty(), "an error says what is wrong");
            for problem in &error.problems {
                assert!(!problem.to_string().trim().is_empty(), "and says it in words");
            }
            return;
        }
    };
    let shown = show(&loaded);
    if shown.contains("(hidden)") {
        // What is hidden is not there to be read again.
        return;
    }
    let again = read(shown.as_bytes()).unwrap_or_else(|error| panic!("what is shown is refused: {error}\n{shown}"));
    assert_eq!(changes(&loaded, &again), Vec::<String>::new(), "what is shown is something else:\n{shown}");
    assert_eq!(format!("{:?}", loaded.settings), format!("{:?}", again.settings), "{shown}");
    let once_more = show(&again);
    let last = read(once_more.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{once_more}"));
    assert_eq!(show(&last), once_more);
}

/// Reads a file of this thread's own, which is overwritten each time.
fn read(text: &[u8]) -> Result<Loaded, SettingsError> {
    thread_local! {
        static FILE: RefCell<Option<(tempfile::TempDir, PathBuf)>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|file| {
        let (_dir, path) = file.get_or_insert_with(|| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("herald.toml");
            (dir, path)
        });
        fs::write(&*path, text).expect("the file can be written");
        load(&Inputs { file: FileLayer::Named(path.clone()), ..Inputs::default() })
    })
}
