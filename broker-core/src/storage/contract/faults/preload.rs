//! Runs a test in a process of its own with a preloaded library that makes chosen operations fail.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// The source of the library.
const SOURCE: &str = include_str!("preload.c");

/// Names the library's control file. Set in the process that has it preloaded.
const CONTROL: &str = "FAULTS_OF_HERALD";

/// The size of that file, which is `struct control` in the library.
const CONTROL_BYTES: usize = 4096;
const BELOW_AT: usize = 64;

/// The address space of such a process, in KiB: damaged lengths must not cause unbounded allocations.
const ADDRESS_SPACE_KIB: u64 = 8 << 20;

/// Kinds of operations on files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations(u64);

impl Operations {
    /// Operations that need space: writing, growing a file, creating or renaming a file or directory.
    pub const SPACE: Self = Self(1 | 2 | 4);
    /// Operations that change anything, except syncs.
    pub const CHANGES: Self = Self(1 | 2 | 4 | 8);
    /// Syncing files and directories.
    pub const SYNCS: Self = Self(16);
    /// Reading.
    pub const READS: Self = Self(32);
}

/// An error number of the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// `EIO`.
    Io = 5,
    /// `ENOSPC`.
    NoSpace = 28,
}

/// A plan of what fails.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The kinds of operations that fail.
    pub operations: Operations,
    /// The number of the first that fails, from 0.
    pub at: u64,
    /// The error that it fails with.
    pub error: Errno,
    /// Whether all later ones fail too, until it is disarmed.
    pub lasting: bool,
}

/// The control of a preloaded library.
#[derive(Debug)]
pub struct Faults {
    control: Mutex<File>,
}

impl Faults {
    fn open(path: &Path) -> Self {
        let control = OpenOptions::new().read(true).write(true).open(path).expect("the control file is there");
        Self { control: Mutex::new(control) }
    }

    /// Controls the library of another process by the file `path`, which it creates. See [`environment`].
    #[must_use]
    pub fn of_another_process(path: &Path) -> Self {
        std::fs::write(path, [0; CONTROL_BYTES]).expect("the control file can be made");
        Self::open(path)
    }

    fn control(&self) -> MutexGuard<'_, File> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self, index: u64) -> u64 {
        let (mut file, mut word) = (self.control(), [0; 8]);
        file.seek(SeekFrom::Start(index * 8)).and_then(|_| file.read_exact(&mut word)).expect("it can be read");
        u64::from_ne_bytes(word)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let mut file = self.control();
        file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).expect("it can be written");
    }

    /// Makes operations on files below `below` fail as planned, from now on.
    pub fn arm(&self, below: &Path, plan: Plan) {
        self.disarm();
        let below = below.as_os_str().as_encoded_bytes();
        assert!(below.len() < CONTROL_BYTES - BELOW_AT, "the path is too long for the library");
        let mut path = below.to_vec();
        path.push(0);
        self.write(BELOW_AT as u64, &path);
        let words = [plan.at, plan.error as u64, u64::from(plan.lasting), 0, 0];
        self.write(8, &words.map(u64::to_ne_bytes).concat());
        // Written last, since it makes the rest take effect.
        self.write(0, &plan.operations.0.to_ne_bytes());
    }

    /// Stops the faults: there is space again, the disk works.
    pub fn disarm(&self) {
        self.write(0, &[0; 8]);
    }

    /// Whether an operation has failed since it was armed.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.word(5) > 0
    }

    /// Sets the wall clock of the process this far from the real one.
    pub fn set_clock(&self, ahead_ms: i64) {
        self.write(48, &ahead_ms.to_ne_bytes());
    }
}

/// The environment that preloads the library, compiled in `dir`, into a process, controlled by the file `control`.
#[must_use]
pub fn environment(dir: &Path, control: &Path) -> [(&'static str, PathBuf); 2] {
    [("LD_PRELOAD", build(dir)), (CONTROL, control.to_owned())]
}

/// Lets the process that `command` starts run a test's body without the library, which another user may not be able to read.
pub(super) fn other_user(command: &mut Command) {
    command.env_remove("LD_PRELOAD").env(CONTROL, "/dev/null");
}

/// Compiles the library in `dir`.
fn build(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("faults.c"), dir.join("libfaults.so"));
    std::fs::write(&source, SOURCE).expect("the library's source can be written");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    let output = compiler.output().expect("these tests need a C compiler, cc");
    assert!(output.status.success(), "the library does not compile: {}", String::from_utf8_lossy(&output.stderr));
    library
}

/// Runs `body`, which is all of the test `name`, in a process with the library preloaded: this one if it is, or else a new one
/// of the same program.
pub fn run(name: &str, body: impl FnOnce(&Faults)) {
    if let Some(control) = std::env::var_os(CONTROL) {
        body(&Faults::open(Path::new(&control)));
        return;
    }
    let dir = TempDir::new().expect("a directory for the test");
    let control = dir.path().join("control");
    std::fs::write(&control, [0; CONTROL_BYTES]).expect("the control file can be made");
    let mut command = Command::new("sh");
    let limited = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$@\"");
    command.args(["-c", &limited, "sh"]).arg(std::env::current_exe().expect("this program has a path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.envs(environment(dir.path(), &control));
    let output = command.output().expect("this program can be started again");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the process with faults below it failed: {}\n{text}", output.status);
    assert!(text.contains("1 passed"), "it ran no test called {name}:\n{text}");
}
