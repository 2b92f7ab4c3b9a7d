//! The outcome of power cuts for small journals.

use super::*;

/// A journal as the library writes it.
#[derive(Default)]
struct Journal(Vec<u8>);

impl Journal {
    fn add(&mut self, kind: u32, [inode, other, offset, length]: [u64; 4], name: &str, second: &str, data: &[u8]) {
        self.0.extend_from_slice(&0x3143_5048_u32.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        [inode, other, offset, length].iter().for_each(|number| self.0.extend_from_slice(&number.to_ne_bytes()));
        [name, second].iter().for_each(|text| self.0.extend_from_slice(&(text.len() as u32).to_ne_bytes()));
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(second.as_bytes());
        self.0.extend_from_slice(data);
    }

    fn create(&mut self, inode: u64, name: &str) {
        self.add(3, [1, inode, 0, 0], name, "", b"");
    }

    fn write(&mut self, inode: u64, offset: u64, data: &[u8]) {
        self.add(5, [inode, 0, offset, data.len() as u64], "", "", data);
    }

    fn rename(&mut self, name: &str, new_name: &str) {
        self.add(8, [1, 1, 0, 0], name, new_name, b"");
    }

    fn sync(&mut self, inode: u64) {
        self.add(11, [inode, 0, self.0.len() as u64, 0], "", "", b"");
    }

    /// The content after a cut, by name.
    fn cut(&self, survival: &Survival) -> BTreeMap<String, Vec<u8>> {
        let mut disk = Disk { nodes: vec![Node::Dir { entries: BTreeMap::new(), pending: Vec::new() }] };
        disk.play(&self.0).unwrap();
        disk.survive(survival, &self.0);
        disk.list().into_iter().skip(1).map(|(name, bytes)| (name, bytes.to_vec())).collect()
    }
}

/// An empty root with the inode 1.
fn journal() -> Journal {
    let mut journal = Journal::default();
    journal.add(1, [1, 0, 0, 0], "", "", b"");
    journal
}

fn files(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, bytes)| (format!("/{name}"), bytes.to_vec())).collect()
}

#[test]
fn a_file_needs_its_own_sync_and_its_directorys() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.write(2, 0, b"bytes");
    assert_eq!(journal.cut(&Survival::Nothing), files(&[]));
    journal.sync(2);
    assert_eq!(journal.cut(&Survival::Nothing), files(&[]));
    journal.sync(1);
    assert_eq!(journal.cut(&Survival::Nothing), files(&[("a", b"bytes")]));
    journal.write(2, 5, b", more");
    assert_eq!(journal.cut(&Survival::Nothing), files(&[("a", b"bytes")]));
    assert_eq!(journal.cut(&Survival::Everything), files(&[("a", b"bytes, more")]));
}

#[test]
fn a_name_synced_without_its_bytes_is_an_empty_file() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.write(2, 0, b"bytes");
    journal.sync(1);
    assert_eq!(journal.cut(&Survival::Nothing), files(&[("a", b"")]));
}

#[test]
fn a_sync_covers_only_changes_before_it_began() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.sync(1);
    journal.write(2, 0, b"before");
    let began = journal.0.len() as u64;
    journal.write(2, 6, b"during");
    journal.add(11, [2, 0, began, 0], "", "", b"");
    assert_eq!(journal.cut(&Survival::Nothing), files(&[("a", b"before")]));
}

#[test]
fn a_rename_over_another_file_takes_effect_when_the_directory_is_synced() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.write(2, 0, b"old");
    journal.sync(2);
    journal.create(3, "b");
    journal.write(3, 0, b"new");
    journal.sync(3);
    journal.sync(1);
    journal.rename("b", "a");
    assert_eq!(journal.cut(&Survival::Nothing), files(&[("a", b"old"), ("b", b"new")]));
    journal.sync(1);
    assert_eq!(journal.cut(&Survival::Nothing), files(&[("a", b"new")]));
}

#[test]
fn a_removed_file_reappears_until_the_directory_is_synced() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.sync(1);
    journal.add(9, [1, 0, 0, 0], "a", "", b"");
    assert_eq!(journal.cut(&Survival::Nothing), files(&[("a", b"")]));
    journal.sync(1);
    assert_eq!(journal.cut(&Survival::Everything), files(&[]));
}

#[test]
fn a_prefix_tears_a_write_at_a_sector_boundary() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.sync(1);
    journal.write(2, 0, b"first");
    journal.write(2, 5, &[b'x'; 2000]);
    journal.write(2, 2005, b"last");
    let until = journal.0.len() as u64 - 48 - 4 - 500;
    let expected = [b"first".to_vec(), vec![b'x'; 1019]].concat();
    assert_eq!(journal.cut(&Survival::Beginning { until }), files(&[("a", &expected)]));
}

#[test]
fn a_scattered_selection_keeps_or_loses_whole_blocks() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.sync(1);
    journal.write(2, 0, &[b'x'; 64 * 512]);
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let left = journal.cut(&Survival::Scattered { block: 512, percent: 50, seed });
        for block in left["/a"].chunks(512) {
            assert!(block.iter().all(|byte| *byte == block[0]), "a block survives as a whole or not at all");
            kinds.insert(block[0]);
        }
    }
    assert_eq!(Vec::from_iter(kinds), [0, b'x'], "some blocks survived and some did not");
}

#[test]
fn a_record_truncated_by_the_kill_is_ignored() {
    let mut journal = journal();
    journal.create(2, "a");
    journal.sync(1);
    journal.write(2, 0, b"whole");
    journal.write(2, 0, b"torn!");
    journal.0.pop();
    assert_eq!(journal.cut(&Survival::Everything), files(&[("a", b"whole")]));
}
