//! The library's records: one for each change of a file or directory, in the order of the changes.

/// The length of `struct record` in `power-cut/layer.c`, whose integers have the machine's byte order.
const HEAD: usize = 48;
const MAGIC: u32 = 0x3143_5048;

/// A change or a sync. Files and directories are identified by their inode numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'j> {
    /// A directory that existed at the start, with its path relative to the root.
    HasDir { inode: u64, path: &'j str },
    /// A file that existed at the start, with its path relative to the root.
    HasFile { inode: u64, path: &'j str },
    /// A new file. Later records with this inode number refer to it.
    Create { dir: u64, name: &'j str, inode: u64 },
    /// A new directory.
    MakeDir { dir: u64, name: &'j str, inode: u64 },
    /// Bytes written, with their position in the journal.
    Write { inode: u64, offset: u64, data: std::ops::Range<usize> },
    /// A new length.
    Truncate { inode: u64, length: u64 },
    /// An extension to at least this length.
    Extend { inode: u64, length: u64 },
    /// A rename within or between directories, replacing any file of the new name.
    Rename { from: u64, name: &'j str, to: u64, new_name: &'j str },
    /// The removal of a file or an empty directory.
    Unlink { dir: u64, name: &'j str },
    /// Another name for a file.
    Link { dir: u64, name: &'j str, inode: u64 },
    /// A sync of a file or directory, which covers all its records that begin before this position in the journal.
    Sync { inode: u64, covered: u64 },
    /// A sync of all files and directories.
    SyncAll { covered: u64 },
    /// An operation that cannot be replayed.
    Unsupported { what: &'j str },
}

/// The records with their positions in the journal. A truncated record is the last one, and its change was not reported to its caller.
pub(super) fn records(journal: &[u8]) -> impl Iterator<Item = (u64, Record<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let head = journal.get(at..at + HEAD)?;
        let u32_at = |offset: usize| u32::from_ne_bytes(head[offset..offset + 4].try_into().unwrap());
        let u64_at = |offset: usize| u64::from_ne_bytes(head[offset..offset + 8].try_into().unwrap());
        assert_eq!(u32_at(0), MAGIC, "no record begins at byte {at} of the journal");
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
