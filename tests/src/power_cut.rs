//! Power cuts for real processes: unsynced data is lost, or survives in parts, in any order.
//!
//! A small library ([`LAYER`], in C, because it replaces calls of the C library) is loaded into the process and records its changes to
//! the files in a directory. At the cut, [`Disk`] replays these records on the content from when the process started, drops everything
//! that no sync covers, except for what survives by chance, and becomes the directory's new content.
//!
//! The rules are the guarantees of POSIX, which are weaker than those of today's file systems:
//!
//! - A file's bytes and its length are on the disk once `fsync` or `fdatasync` of it has returned; `sync_file_range` guarantees nothing.
//! - A directory's entries are on the disk once `fsync` of the directory has returned. Syncing a file does not sync its name.
//! - Of everything else nothing, a prefix, or any part may survive ([`Survival`]), torn at 512 or 4096 bytes. Changes of one directory
//!   survive only as a prefix, because file systems journal them. A truncated file keeps nothing written after the truncation unless
//!   the truncation survives.
//!
//! | to find | look in |
//! | --- | --- |
//! | the library | `power-cut/layer.c` |
//! | its records | `journal` |
//! | the content of the disk | `disk` |
//! | the choice of unsynced changes that survive | `survival` |

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

/// Cuts the power of a broker's processes, for the files in the directory `root`.
pub struct PowerCut {
    root: PathBuf,
    journal: PathBuf,
    /// The content of the disk when the process was started.
    disk: Disk,
}

impl PowerCut {
    /// Loads the library into all processes of `broker` to record their changes in `root`. With `syncs_do_nothing` it reports success
    /// for every sync without syncing.
    #[must_use]
    pub fn new(broker: &mut TestBroker, root: &Path, syncs_do_nothing: bool) -> Self {
        let library = broker.dir().join("power-cut.so");
        compile(&library);
        let journal = broker.dir().join("power-cut.journal");
        // A process started with another preloaded library still needs that one.
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

    /// Prepares for the start of a process: the current content of the directory is on the disk.
    pub fn arm(&mut self) {
        let _there_may_be_none = fs::remove_file(&self.journal);
        self.disk = Disk::read(&self.root);
    }

    /// Checks that the library has seen everything: replaying its records yields the current content of the directory. Only valid after
    /// an orderly stop, because a kill can come between a change and its record.
    ///
    /// # Errors
    /// The differences.
    pub fn check_completeness(&self) -> Result<(), String> {
        let mut disk = self.disk.clone();
        let journal = fs::read(&self.journal).unwrap();
        disk.play(&journal)?;
        disk.survive(&Survival::Everything, &journal);
        // SQLite maps its index of the log into memory and rebuilds it after a crash. The reserve is allocated by a system call that no
        // library sees, and its content means nothing.
        disk.compare(&Disk::read(&self.root), &|name| ["-shm", "/reserve"].iter().any(|end| name.ends_with(end)))
    }

    /// Cuts the power: the directory gets the content that survives on the disk.
    ///
    /// # Errors
    /// When a process changed files in a way that the library cannot record.
    pub fn cut(&mut self, rng: &mut StdRng) -> Result<Survival, String> {
        let length = fs::metadata(&self.journal).map_or(0, |metadata| metadata.len());
        let survival = Survival::choose(rng, length);
        self.cut_sparing(&survival)?;
        Ok(survival)
    }

    /// Cuts the power with a given choice of unsynced changes that survive.
    ///
    /// # Errors
    /// As for [`PowerCut::cut`].
    pub fn cut_sparing(&mut self, survival: &Survival) -> Result<(), String> {
        // A process that was killed before it started has no journal.
        let journal = fs::read(&self.journal).unwrap_or_default();
        self.disk.play(&journal)?;
        self.disk.survive(survival, &journal);
        self.disk.write_to(&self.root);
        Ok(())
    }
}

fn compile(library: &Path) {
    if cfg!(not(all(target_os = "linux", target_pointer_width = "64"))) {
        panic!("power cuts need 64-bit Linux, because they use LD_PRELOAD");
    }
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-x", "c", "-", "-ldl", "-lpthread", "-o"]).arg(library);
    let mut child =
        cc.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("power cuts need a C compiler, as does building the SQLite storage: cannot run \"cc\": {error}")
        });
    child.stdin.take().unwrap().write_all(LAYER.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cc cannot compile the power cut's library:\n{text}");
}
