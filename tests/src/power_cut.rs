//! Power cuts for real processes: what was not synced is gone, or there in parts, in any order.
//!
//! A small library ([`LAYER`], in C, because it takes the place of the C library's calls) is loaded into the process and records what
//! it does to the files below a directory. At the cut, [`Disk`] plays these records on what was on the disk when the process started,
//! drops everything that no sync covers, save what chance lets survive, and becomes the directory's new content.
//!
//! The rules are those that POSIX leaves to count on, which is less than today's file systems keep:
//!
//! - A file's bytes and its length are on the disk when `fsync` or `fdatasync` of it has returned; `sync_file_range` promises nothing.
//! - A directory's entries are on the disk when `fsync` of the directory has returned. Syncing a file says nothing about its name.
//! - Of everything else nothing, a beginning, or any part may survive ([`Survival`]), torn at 512 or 4096 bytes; but of what happened
//!   to one directory a beginning, since file systems keep a journal of that, and a file that was cut keeps nothing written after
//!   the cut unless the cut survives.
//!
//! | to find | look in |
//! | --- | --- |
//! | the library | `power-cut/layer.c` |
//! | its records | `journal` |
//! | what is on the disk | `disk` |
//! | what survives besides | `survival` |

mod disk;
mod journal;
mod survival;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::rngs::StdRng;

use crate::TestBroker;
use disk::Disk;
pub use survival::Survival;

/// The library's source.
const LAYER: &str = include_str!("../power-cut/layer.c");

/// Plays power cuts on the directory `root` of a broker's processes.
pub struct PowerCut {
    root: PathBuf,
    journal: PathBuf,
    /// What was on the disk when the process was started.
    disk: Disk,
}

impl PowerCut {
    /// Has the library loaded into all processes of `broker`; it records what they do below `root`. With `syncs_do_nothing` it
    /// tells them that their syncs have succeeded without doing any.
    #[must_use]
    pub fn new(broker: &mut TestBroker, root: &Path, syncs_do_nothing: bool) -> Self {
        let library = broker.dir().join("power-cut.so");
        compile(&library);
        let journal = broker.dir().join("power-cut.journal");
        // A program that was started with another library loaded still needs it.
        let mut preload = library.into_os_string();
        if let Some(others) = std::env::var_os("LD_PRELOAD") {
            preload.push(":");
            preload.push(others);
        }
        broker.env("LD_PRELOAD", preload);
        broker.env("POWER_CUT_ROOT", root);
        broker.env("POWER_CUT_JOURNAL", &journal);
        if syncs_do_nothing {
            broker.env("POWER_CUT_IGNORE_SYNC", "1");
        }
        Self { root: root.to_owned(), journal, disk: Disk::default() }
    }

    /// A process is about to be started: all that is there now is on the disk.
    pub fn arm(&mut self) {
        let _there_may_be_none = fs::remove_file(&self.journal);
        self.disk = Disk::read(&self.root);
    }

    /// Checks that the library has seen everything: what it recorded makes of the disk what the directory is. For after an orderly stop:
    /// a kill can come between a change and its record.
    ///
    /// # Errors
    /// What differs.
    pub fn check_completeness(&self) -> Result<(), String> {
        let mut disk = self.disk.clone();
        let journal = fs::read(&self.journal).unwrap();
        disk.play(&journal)?;
        disk.survive(&Survival::Everything, &journal);
        // An index that SQLite maps into its memory, and makes anew after a crash.
        disk.compare(&Disk::read(&self.root), &|name| name.ends_with("-shm"))
    }

    /// The cut: the directory gets the content that the disk has after it.
    ///
    /// # Errors
    /// When something was done to the files that the library does not know how to record.
    pub fn cut(&mut self, rng: &mut StdRng) -> Result<Survival, String> {
        let length = fs::metadata(&self.journal).map_or(0, |metadata| metadata.len());
        let survival = Survival::choose(rng, length);
        self.cut_sparing(&survival)?;
        Ok(survival)
    }

    /// The same with what is to survive of the unsynced.
    ///
    /// # Errors
    /// As for [`PowerCut::cut`].
    pub fn cut_sparing(&mut self, survival: &Survival) -> Result<(), String> {
        // A process that was killed before it had begun has done nothing.
        let journal = fs::read(&self.journal).unwrap_or_default();
        self.disk.play(&journal)?;
        self.disk.survive(survival, &journal);
        self.disk.write_to(&self.root);
        Ok(())
    }
}

fn compile(library: &Path) {
    if cfg!(not(all(target_os = "linux", target_pointer_width = "64"))) {
        panic!("power cuts need a Linux of 64 bits: they work through LD_PRELOAD");
    }
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-x", "c", "-", "-ldl", "-lpthread", "-o"]).arg(library);
    let mut child =
        cc.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("power cuts need a C compiler, as building the SQLite storage does: cannot run \"cc\": {error}")
        });
    child.stdin.take().unwrap().write_all(LAYER.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cc does not compile the library of the power cut:\n{text}");
}
