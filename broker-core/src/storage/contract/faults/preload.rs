//! Runs a test in a process of its own with a library in front of the C library, which fails what it is told to.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// The library.
const SOURCE: &str = include_str!("preload.c");

/// Names the file through which the library is told what to do; set in the process that has it in front.
const CONTROL: &str = "FAULTS_OF_HERALD";

/// How long that file is; as `struct control` in the library.
const CONTROL_BYTES: usize = 4096;
const BELOW_AT: usize = 64;

/// What such a process may have as address space, in KiB: damage must not make anything reserve without bounds.
const ADDRESS_SPACE_KIB: u64 = 8 << 20;

/// Kinds of operations on files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations(u64);

impl Operations {
    /// What needs space: writing, growing a file, making or renaming a file or directory.
    pub const SPACE: Self = Self(1 | 2 | 4);
    /// What changes anything, short of syncing.
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

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// At operations of these kinds.
    pub operations: Operations,
    /// At the one with this number, from 0.
    pub at: u64,
    /// With this error.
    pub error: Errno,
    /// At all later ones too, until it is disarmed.
    pub lasting: bool,
}

/// The way to the library in front of this process.
#[derive(Debug)]
pub struct Faults {
    control: Mutex<File>,
}

impl Faults {
    fn open(path: &Path) -> Self {
        let control = OpenOptions::new().read(true).write(true).open(path).expect("the control file is there");
        Self { control: Mutex::new(control) }
    }

    /// Works the library of another process, whose control file is `path`; the file is made. See [`environment`].
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

    /// From now on operations on what is in `below` go wrong as planned.
    pub fn arm(&self, below: &Path, plan: Plan) {
        self.disarm();
        let below = below.as_os_str().as_encoded_bytes();
        assert!(below.len() < CONTROL_BYTES - BELOW_AT, "the path is too long for the library");
        let mut path = below.to_vec();
        path.push(0);
        self.write(BELOW_AT as u64, &path);
        let words = [plan.at, plan.error as u64, u64::from(plan.lasting), 0, 0];
        self.write(8, &words.map(u64::to_ne_bytes).concat());
        // Last: it says that the rest counts.
        self.write(0, &plan.operations.0.to_ne_bytes());
    }

    /// Nothing goes wrong any more: there is space again, the disk works.
    pub fn disarm(&self) {
        self.write(0, &[0; 8]);
    }

    /// Whether something has gone wrong since it was armed.
    #[must_use]
    pub fn happened(&self) -> bool {
        self.word(5) > 0
    }

    /// Sets the wall clock of the process this far from the real one.
    pub fn set_clock(&self, ahead_ms: i64) {
        self.write(48, &ahead_ms.to_ne_bytes());
    }
}

/// The environment that puts the library, compiled in `dir`, in front of a process, worked through the file `control`.
#[must_use]
pub fn environment(dir: &Path, control: &Path) -> [(&'static str, PathBuf); 2] {
    [("LD_PRELOAD", build(dir)), (CONTROL, control.to_owned())]
}

/// Lets the process of another user that `command` will start run a test's body without the library: it may not be let to the
/// files.
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

/// Runs `body`, which is all of the test `name`, in a process with the library in front: this one, if it has that, or
/// a new one of the same program.
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
