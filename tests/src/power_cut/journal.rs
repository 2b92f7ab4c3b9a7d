//! What the library records: one record for each change of the files, in the order of the changes.

/// See `struct record` in `power-cut/layer.c`; the integers are the machine's.
const HEAD: usize = 48;
const MAGIC: u32 = 0x3143_5048;

/// A change, or a sync. Files and directories are named by their inode numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'j> {
    /// A directory that was there at the start; its path below the root.
    HasDir { inode: u64, path: &'j str },
    /// The same for a file.
    HasFile { inode: u64, path: &'j str },
    /// A new file. From now on the inode number means this one.
    Create { dir: u64, name: &'j str, inode: u64 },
    /// A new directory.
    MakeDir { dir: u64, name: &'j str, inode: u64 },
    /// Bytes written; where they are in the journal.
    Write { inode: u64, offset: u64, data: std::ops::Range<usize> },
    /// A new length.
    Truncate { inode: u64, length: u64 },
    /// At least this length.
    Extend { inode: u64, length: u64 },
    /// A new name, in the same or another directory, and what had it is replaced.
    Rename { from: u64, name: &'j str, to: u64, new_name: &'j str },
    /// A name is gone, of a file or an empty directory.
    Unlink { dir: u64, name: &'j str },
    /// One more name for a file.
    Link { dir: u64, name: &'j str, inode: u64 },
    /// A file or directory was synced; all records of it that begin before this place in the journal are covered.
    Sync { inode: u64, covered: u64 },
    /// Everything was.
    SyncAll { covered: u64 },
    /// Something that cannot be played.
    Unsupported { what: &'j str },
}

/// The records with the places where they begin. A record that ends early is the last one, and nobody was told of its change.
pub(super) fn records(journal: &[u8]) -> impl Iterator<Item = (u64, Record<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let head = journal.get(at..at + HEAD)?;
        let u32_at = |offset: usize| u32::from_ne_bytes(head[offset..offset + 4].try_into().unwrap());
        let u64_at = |offset: usize| u64::from_ne_bytes(head[offset..offset + 8].try_into().unwrap());
        assert_eq!(u32_at(0), MAGIC, "the journal is the library's, and is not torn at {at}");
        let kind = u32_at(4);
        let (inode, other, offset, length) = (u64_at(8), u64_at(16), u64_at(24), u64_at(32));
        let (first, second) = (u32_at(40) as usize, u32_at(44) as usize);
        let names = at + HEAD;
        let data = names + first + second;
        let end = if kind == 5 { data + usize::try_from(length).unwrap() } else { data };
        if end > journal.len() {
            return None;
        }
        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&journal[range]).unwrap();
        let name = text(names..names + first);
        let record = match kind {
            1 => Record::HasDir { inode, path: name },
            2 => Record::HasFile { inode, path: name },
            3 => Record::Create { dir: inode, name, inode: other },
            4 => Record::MakeDir { dir: inode, name, inode: other },
            5 => Record::Write { inode, offset, data: data..end },
            6 => Record::Truncate { inode, length: offset },
            7 => Record::Extend { inode, length: offset + length },
            8 => Record::Rename { from: inode, name, to: other, new_name: text(names + first..data) },
            9 => Record::Unlink { dir: inode, name },
            10 => Record::Link { dir: inode, name, inode: other },
            11 => Record::Sync { inode, covered: offset },
            12 => Record::SyncAll { covered: offset },
            _ => Record::Unsupported { what: name },
        };
        let began = at as u64;
        at = end;
        Some((began, record))
    })
}
