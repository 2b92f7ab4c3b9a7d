//! The content of the disk, and the changes not yet synced to it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::journal::{Record, records};
use super::survival::{Chooser, Survival};

/// A file or directory, independent of its name.
type Id = usize;

/// The root directory.
const ROOT: Id = 0;

/// A change of a file that no sync covers yet.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, data: Range<usize> },
    Truncate { length: u64 },
    Extend { length: u64 },
}

/// A change of a directory that no sync covers yet.
#[derive(Debug, Clone)]
enum Entry {
    Set {
        name: String,
        node: Id,
    },
    Remove {
        name: String,
    },
    /// A rename within the directory, which survives as a whole or not at all.
    Move {
        from: String,
        to: String,
    },
}

/// Changes with the positions of their records in the journal.
type Pending<T> = Vec<(u64, T)>;

#[derive(Debug, Clone)]
enum Node {
    File { bytes: Vec<u8>, pending: Pending<Change> },
    Dir { entries: BTreeMap<String, Id>, pending: Pending<Entry> },
}

/// The disk with the content of a directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    nodes: Vec<Node>,
}

impl Disk {
    /// Reads a directory, whose current content counts as synced.
    pub(super) fn read(root: &Path) -> Self {
        let mut disk = Self::default();
        disk.read_dir(root);
        disk
    }

    fn read_dir(&mut self, path: &Path) -> Id {
        let id = self.add(Node::Dir { entries: BTreeMap::new(), pending: Vec::new() });
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let node = if entry.file_type().unwrap().is_dir() {
                self.read_dir(&entry.path())
            } else {
                self.add(Node::File { bytes: fs::read(entry.path()).unwrap(), pending: Vec::new() })
            };
            found.insert(entry.file_name().into_string().unwrap(), node);
        }
        if let Node::Dir { entries, .. } = &mut self.nodes[id] {
            *entries = found;
        }
        id
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn find(&self, path: &str) -> Id {
        path.split('/').filter(|name| !name.is_empty()).fold(ROOT, |dir, name| match &self.nodes[dir] {
            Node::Dir { entries, .. } => entries[name],
            Node::File { .. } => panic!("{path} is below a file"),
        })
    }

    /// Replays a process's journal.
    pub(super) fn play(&mut self, journal: &[u8]) -> Result<(), String> {
        let mut inodes: HashMap<u64, Id> = HashMap::new();
        for (at, record) in records(journal) {
            match record {
                Record::HasDir { inode, path } | Record::HasFile { inode, path } => {
                    inodes.insert(inode, self.find(path));
                }
                Record::Create { dir, name, inode } => {
                    let node = self.add(Node::File { bytes: Vec::new(), pending: Vec::new() });
                    inodes.insert(inode, node);
                    self.change_dir(inodes[&dir], at, Entry::Set { name: name.to_owned(), node });
                }
                Record::MakeDir { dir, name, inode } => {
                    let node = self.add(Node::Dir { entries: BTreeMap::new(), pending: Vec::new() });
                    inodes.insert(inode, node);
                    self.change_dir(inodes[&dir], at, Entry::Set { name: name.to_owned(), node });
                }
                Record::Link { dir, name, inode } => {
                    self.change_dir(inodes[&dir], at, Entry::Set { name: name.to_owned(), node: inodes[&inode] });
                }
                Record::Unlink { dir, name } => {
                    self.change_dir(inodes[&dir], at, Entry::Remove { name: name.to_owned() });
                }
                Record::Rename { from, name, to, new_name } if from == to => {
                    self.change_dir(inodes[&from], at, Entry::Move { from: name.to_owned(), to: new_name.to_owned() });
                }
                Record::Rename { name, .. } => return Err(format!("{name} was moved to another directory")),
                Record::Write { inode, offset, data } => {
                    self.change_file(inodes[&inode], at, Change::Write { offset, data });
                }
                Record::Truncate { inode, length } => self.change_file(inodes[&inode], at, Change::Truncate { length }),
                Record::Extend { inode, length } => self.change_file(inodes[&inode], at, Change::Extend { length }),
                Record::Sync { inode, covered } => self.sync(inodes[&inode], covered, journal),
                Record::SyncAll { covered } => (0..self.nodes.len()).for_each(|id| self.sync(id, covered, journal)),
                Record::Unsupported { what } => return Err(format!("{what}: the power cut cannot replay that")),
            }
        }
        Ok(())
    }

    fn change_file(&mut self, id: Id, at: u64, change: Change) {
        match &mut self.nodes[id] {
            Node::File { pending, .. } => pending.push((at, change)),
            Node::Dir { .. } => panic!("{change:?} of a directory"),
        }
    }

    fn change_dir(&mut self, id: Id, at: u64, entry: Entry) {
        match &mut self.nodes[id] {
            Node::Dir { pending, .. } => pending.push((at, entry)),
            Node::File { .. } => panic!("{entry:?} of a file"),
        }
    }

    /// Applies the changes that a sync covers.
    fn sync(&mut self, id: Id, covered: u64, journal: &[u8]) {
        match &mut self.nodes[id] {
            Node::File { bytes, pending } => {
                let count = pending.partition_point(|(at, _)| *at < covered);
                pending.drain(..count).for_each(|(_, change)| apply(bytes, &change, journal));
            }
            Node::Dir { entries, pending } => {
                let count = pending.partition_point(|(at, _)| *at < covered);
                pending.drain(..count).for_each(|(_, entry)| enter(entries, entry));
            }
        }
    }

    /// Cuts the power: applies the unsynced changes that survive, and drops the others.
    pub(super) fn survive(&mut self, survival: &Survival, journal: &[u8]) {
        for (id, node) in self.nodes.iter_mut().enumerate() {
            let mut chooser = Chooser::new(survival, id);
            match node {
                Node::File { bytes, pending } => {
                    for (at, change) in std::mem::take(pending) {
                        match change {
                            Change::Write { offset, data } if chooser.may_keep() => {
                                let (place, len) = (data.start as u64, data.len() as u64);
                                for (from, to) in chooser.parts(at, place, offset, len) {
                                    let part = data.start + index(from)..data.start + index(to);
                                    apply(bytes, &Change::Write { offset: offset + from, data: part }, journal);
                                }
                            }
                            Change::Write { .. } => {}
                            other => {
                                if chooser.keeps(at) {
                                    apply(bytes, &other, journal);
                                }
                            }
                        }
                    }
                }
                Node::Dir { entries, pending } => {
                    let changes = std::mem::take(pending).into_iter();
                    changes.filter(|(at, _)| chooser.keeps(*at)).for_each(|(_, entry)| enter(entries, entry));
                }
            }
        }
    }

    /// Replaces the content of the directory with the disk's.
    pub(super) fn write_to(&self, root: &Path) {
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        self.write_dir(ROOT, root);
    }

    fn write_dir(&self, id: Id, path: &Path) {
        let Node::Dir { entries, .. } = &self.nodes[id] else { panic!("{} is a file", path.display()) };
        for (name, node) in entries {
            let path = path.join(name);
            match &self.nodes[*node] {
                Node::File { bytes, .. } => fs::write(path, bytes).unwrap(),
                Node::Dir { .. } => {
                    fs::create_dir(&path).unwrap();
                    self.write_dir(*node, &path);
                }
            }
        }
    }

    /// Compares the content with another disk's, except for files whose names are left out.
    pub(super) fn compare(&self, other: &Self, left_out: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let (mine, theirs) = (self.list(), other.list());
        let names: std::collections::BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
        for name in names.into_iter().filter(|name| !left_out(name)) {
            if mine.get(name) != theirs.get(name) {
                let length = |bytes: Option<&&[u8]>| bytes.map_or("none".to_owned(), |bytes| bytes.len().to_string());
                let (recorded, there) = (length(mine.get(name)), length(theirs.get(name)));
                return Err(format!("{name} differs from the records: {recorded} bytes recorded, {there} found"));
            }
        }
        Ok(())
    }

    /// All files and directories by path; those of directories end in a slash.
    fn list(&self) -> BTreeMap<String, &[u8]> {
        let mut found = BTreeMap::new();
        let mut open = vec![(ROOT, String::new())];
        while let Some((id, path)) = open.pop() {
            match &self.nodes[id] {
                Node::File { bytes, .. } => drop(found.insert(path, &**bytes)),
                Node::Dir { entries, .. } => {
                    open.extend(entries.iter().map(|(name, node)| (*node, format!("{path}/{name}"))));
                    found.insert(path + "/", &[]);
                }
            }
        }
        found
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn apply(bytes: &mut Vec<u8>, change: &Change, journal: &[u8]) {
    match change {
        Change::Write { data, .. } if data.is_empty() => {}
        Change::Write { offset, data } => {
            let (from, to) = (index(*offset), index(*offset) + data.len());
            if bytes.len() < to {
                bytes.resize(to, 0);
            }
            bytes[from..to].copy_from_slice(&journal[data.clone()]);
        }
        Change::Truncate { length } => bytes.resize(index(*length), 0),
        Change::Extend { length } => bytes.resize(bytes.len().max(index(*length)), 0),
    }
}

fn enter(entries: &mut BTreeMap<String, Id>, entry: Entry) {
    match entry {
        Entry::Set { name, node } => drop(entries.insert(name, node)),
        Entry::Remove { name } => drop(entries.remove(&name)),
        Entry::Move { from, to } => {
            if let Some(node) = entries.remove(&from) {
                entries.insert(to, node);
            }
        }
    }
}

#[cfg(test)]
mod tests;
