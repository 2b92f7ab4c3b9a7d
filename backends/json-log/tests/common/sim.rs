//! A disk in memory that distinguishes written data from synced data, fails on request, and can lose power.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use durable_files::{DataFile, Entry, Files, LockGuard, Locking, OpenMode};

/// The fault to inject. Operations that change the disk are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Nothing,
    /// The operation fails once with this error; a write writes half of its data first.
    FailAt(u64, io::ErrorKind),
    /// Power fails in the middle of the operation.
    CutAt(u64),
}

/// The unsynced data that survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    Everything,
    /// A part of each file's unsynced data, and some of the directory's unsynced changes.
    Some(u64),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    data: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug)]
struct Disk {
    inodes: Vec<Inode>,
    now: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    plan: Plan,
    operations: u64,
    off: bool,
    locked: bool,
}

/// The disk; all clones share its state.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Disk>>);

enum Outcome {
    Do,
    Fail(io::ErrorKind),
    Cut,
}

impl Disk {
    fn step(&mut self) -> io::Result<Outcome> {
        self.powered()?;
        let n = self.operations;
        self.operations += 1;
        Ok(match self.plan {
            Plan::FailAt(at, kind) if at == n => Outcome::Fail(kind),
            Plan::CutAt(at) if at == n => {
                self.off = true;
                Outcome::Cut
            }
            _ => Outcome::Do,
        })
    }

    fn powered(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts an operation that happens entirely or not at all.
    fn whole_step(&mut self) -> io::Result<()> {
        match self.step()? {
            Outcome::Do => Ok(()),
            Outcome::Fail(kind) => Err(kind.into()),
            Outcome::Cut => Err(io::Error::other("the power went")),
        }
    }
}

/// xorshift: enough to vary what survives.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl SimDisk {
    pub fn new(plan: Plan) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            inodes: Vec::new(),
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            plan,
            operations: 0,
            off: false,
            locked: false,
        })))
    }

    /// Whether the planned fault has happened.
    pub fn happened(&self) -> bool {
        let disk = self.0.lock().unwrap();
        match disk.plan {
            Plan::Nothing => false,
            Plan::FailAt(at, _) | Plan::CutAt(at) => disk.operations > at,
        }
    }

    /// The number of operations so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// The current content of all files.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let disk = self.0.lock().unwrap();
        disk.now.iter().map(|(path, inode)| (path.clone(), disk.inodes[*inode].data.clone())).collect()
    }

    /// A disk with these files, all durable.
    pub fn of(files: &BTreeMap<PathBuf, Vec<u8>>, plan: Plan) -> Self {
        let sim = Self::new(plan);
        let mut disk = sim.0.lock().unwrap();
        for (at, (path, data)) in files.iter().enumerate() {
            disk.inodes.push(Inode { data: data.clone(), synced: data.clone() });
            disk.now.insert(path.clone(), at);
        }
        disk.durable = disk.now.clone();
        drop(disk);
        sim
    }

    /// The disk after power returns, with a new plan.
    pub fn reboot(&self, survives: Survives, plan: Plan) -> Self {
        let disk = self.0.lock().unwrap();
        let mut seed = match survives {
            Survives::Some(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            _ => 1,
        };
        let mut pick = |n: usize| (random(&mut seed) >> 20) as usize % (n + 1);
        let mut entries = BTreeMap::new();
        let mut names: Vec<_> = disk.now.keys().chain(disk.durable.keys()).cloned().collect();
        names.sort();
        names.dedup();
        for name in names {
            let (now, durable) = (disk.now.get(&name).copied(), disk.durable.get(&name).copied());
            let inode = match survives {
                Survives::Nothing => durable,
                Survives::Everything => now,
                Survives::Some(_) if pick(1) == 0 => durable,
                Survives::Some(_) => now,
            };
            if let Some(inode) = inode {
                entries.insert(name, inode);
            }
        }
        let inodes = disk.inodes.iter().map(|inode| {
            let data = match survives {
                Survives::Nothing => inode.synced.clone(),
                Survives::Everything => inode.data.clone(),
                Survives::Some(_) => {
                    let same = inode.synced.iter().zip(&inode.data).take_while(|(a, b)| a == b).count();
                    if same == inode.synced.len() {
                        let end = same + pick(inode.data.len() - same);
                        let mut data = inode.data[..end].to_vec();
                        // The length may survive without the bytes.
                        if pick(3) == 0 {
                            data[same..].fill(0);
                        }
                        data
                    } else if pick(1) == 0 {
                        inode.data.clone()
                    } else {
                        inode.synced.clone()
                    }
                }
            };
            Inode { synced: data.clone(), data }
        });
        Self(Arc::new(Mutex::new(Disk {
            inodes: inodes.collect(),
            now: entries.clone(),
            durable: entries,
            plan,
            operations: 0,
            off: false,
            locked: false,
        })))
    }
}

#[derive(Debug)]
struct SimLock(SimDisk);

impl LockGuard for SimLock {
    fn write(&mut self, _note: &str) -> io::Result<()> {
        Ok(())
    }

    fn is_new(&self) -> bool {
        false
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().locked = false;
    }
}

impl Files for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let disk = self.0.lock().unwrap();
        disk.powered()?;
        let here = disk.now.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, inode): (&PathBuf, &usize)| Entry {
            name: path.file_name().map(OsString::from).unwrap(),
            len: disk.inodes[*inode].data.len() as u64,
        };
        Ok(here.map(entry).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>> {
        let mut disk = self.0.lock().unwrap();
        disk.powered()?;
        let found = disk.now.get(path).copied();
        let inode = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, OpenMode::CreateNew) => {
                disk.whole_step()?;
                disk.inodes.push(Inode::default());
                let inode = disk.inodes.len() - 1;
                disk.now.insert(path.to_owned(), inode);
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.whole_step()?;
        let inode = disk.now.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.now.insert(to.to_owned(), inode);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.whole_step()?;
        disk.now.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.whole_step()?;
        disk.durable = disk.now.clone();
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Locking> {
        let mut disk = self.0.lock().unwrap();
        if std::mem::replace(&mut disk.locked, true) {
            return Ok(Locking::Busy(String::new()));
        }
        Ok(Locking::Held(Box::new(SimLock(self.clone()))))
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Locking>> {
        self.lock(path).map(Some)
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DataFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk.0.lock().unwrap();
        disk.powered()?;
        let data = &disk.inodes[self.inode].data;
        let from = data.len().min(offset as usize);
        let n = buffer.len().min(data.len() - from);
        buffer[..n].copy_from_slice(&data[from..from + n]);
        Ok(n)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock().unwrap();
        let outcome = disk.step()?;
        let data = &mut disk.inodes[self.inode].data;
        let mut put = |bytes: &[u8]| {
            let end = offset as usize + bytes.len();
            data.resize(data.len().max(end), 0);
            data[offset as usize..end].copy_from_slice(bytes);
        };
        match outcome {
            Outcome::Do => {
                put(bytes);
                Ok(())
            }
            Outcome::Fail(kind) => {
                put(&bytes[..bytes.len() / 2]);
                Err(kind.into())
            }
            Outcome::Cut => {
                put(&bytes[..bytes.len() / 2]);
                Err(io::Error::other("the power went"))
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock().unwrap();
        disk.whole_step()?;
        let inode = &mut disk.inodes[self.inode];
        inode.synced = inode.data.clone();
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock().unwrap();
        disk.whole_step()?;
        disk.inodes[self.inode].data.resize(len as usize, 0);
        Ok(())
    }
}
