//! Reads rows directly from the leaf pages of a database file, for tables whose inner pages are damaged.
//!
//! The file has a pointer map, because `auto_vacuum` is on. The map lists the pages in use, so deleted rows do not reappear. A row is
//! recognized by its checksum. See <https://sqlite.org/fileformat2.html>.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rusqlite::types::Value;

/// Offsets in the header: the page size, the unused bytes at the end of each page, and the largest root page, which is 0 without a
/// pointer map.
const PAGE_SIZE_AT: usize = 16;
const RESERVED_AT: usize = 20;
const LARGEST_ROOT_AT: usize = 52;

/// The pointer map's types of the pages of tables and indexes.
const ROOT: u8 = 1;
const INNER_OR_LEAF: u8 = 5;

/// The types of such pages, stored in their first byte.
const INDEX_INNER: u8 = 2;
const INDEX_LEAF: u8 = 10;
const TABLE_LEAF: u8 = 13;

/// Longer than any row of this storage. The limit keeps a damaged length from exhausting the memory.
const MAX_ROW: usize = 80 << 20;

/// An open database file.
pub(crate) struct Pages {
    file: File,
    size: usize,
    /// The usable bytes of a page.
    usable: usize,
    count: u32,
}

impl Pages {
    /// Opens the file. `None` if its header is damaged or it has no pointer map.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut file = File::open(path)?;
        let mut header = [0; 100];
        let len = file.metadata()?.len();
        if len < 100 {
            return Ok(None);
        }
        file.read_exact(&mut header)?;
        let size = match u16_at(&header, PAGE_SIZE_AT) {
            Some(1) => 65_536,
            Some(size) => size,
            None => return Ok(None),
        };
        let has_map = u32_at(&header, LARGEST_ROOT_AT).is_some_and(|root| root > 0);
        let usable = size.saturating_sub(usize::from(header[RESERVED_AT]));
        let count = u32::try_from(len / (size.max(1) as u64)).unwrap_or(u32::MAX);
        let sound = header.starts_with(b"SQLite format 3\0") && size.is_power_of_two() && size >= 512 && usable >= 480;
        Ok((sound && has_map).then_some(Self { file, size, usable, count }))
    }

    fn page(&mut self, number: u32) -> io::Result<Option<Vec<u8>>> {
        let Some(before) = number.checked_sub(1).filter(|_| number <= self.count) else { return Ok(None) };
        let mut page = vec![0; self.size];
        self.file.seek(SeekFrom::Start(u64::from(before) * self.size as u64))?;
        self.file.read_exact(&mut page)?;
        Ok(Some(page))
    }

    /// Visits all rows with `columns` columns in pages that are in use. `is_table` selects tables with a row number, which replaces
    /// the first column.
    pub(crate) fn each<E: From<io::Error>>(
        &mut self,
        columns: usize,
        is_table: bool,
        mut visit: impl FnMut(Vec<Value>) -> Result<(), E>,
    ) -> Result<(), E> {
        // The first map page is page 2. Each later one follows the pages that its predecessor describes.
        let described = u32::try_from(self.usable / 5).unwrap_or(u32::MAX);
        let mut map_at = 2;
        while let Some(map) = self.page(map_at)? {
            for n in 0..described {
                let Some(number) = map_at.checked_add(n + 1).filter(|number| *number <= self.count) else { break };
                let kind = map.get(n as usize * 5).copied().unwrap_or_default();
                if kind != ROOT && kind != INNER_OR_LEAF {
                    continue;
                }
                let Some(page) = self.page(number)? else { continue };
                for cell in cells(&page, is_table) {
                    if let Some(row) = self.row(&page, cell, columns, is_table)? {
                        visit(row)?;
                    }
                }
            }
            let Some(next) = map_at.checked_add(described + 1) else { break };
            map_at = next;
        }
        Ok(())
    }

    /// The row in a cell. `None` if the cell holds no valid row.
    fn row(&mut self, page: &[u8], cell: usize, columns: usize, is_table: bool) -> io::Result<Option<Vec<Value>>> {
        let mut at = cell;
        if page[0] == INDEX_INNER {
            at += 4;
        }
        let Some(len) = varint(page, &mut at).and_then(|len| usize::try_from(len).ok()).filter(|len| *len <= MAX_ROW)
        else {
            return Ok(None);
        };
        let number = if is_table { varint(page, &mut at) } else { None };
        let (usable, least) = (self.usable, (self.usable - 12) * 32 / 255 - 23);
        let most = if is_table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
        let here = if len <= most {
            len
        } else {
            let fitting = least + (len - least) % (usable - 4);
            if fitting <= most { fitting } else { least }
        };
        let Some(start) = page.get(at..at + here) else { return Ok(None) };
        let mut record = start.to_vec();
        let mut next = u32_at(page, at + here).unwrap_or_default();
        while record.len() < len {
            // The length ends a chain that is broken or circular.
            let Some(more) = self.page(next)? else { return Ok(None) };
            next = u32_at(&more, 0).unwrap_or_default();
            let part = (len - record.len()).min(usable - 4);
            record.extend_from_slice(&more[4..4 + part]);
        }
        Ok(decode(&record, columns).map(|mut row| {
            if let (Some(number), Some(first)) = (number, row.first_mut()) {
                *first = Value::Integer(number);
            }
            row
        }))
    }
}

/// The offsets of the cells of a page that can be rows.
fn cells(page: &[u8], is_table: bool) -> Vec<usize> {
    let list = match (page[0], is_table) {
        (INDEX_LEAF, false) | (TABLE_LEAF, true) => 8,
        (INDEX_INNER, false) => 12,
        _ => return Vec::new(),
    };
    let count = u16_at(page, 3).unwrap_or_default();
    (0..count).filter_map(|n| u16_at(page, list + 2 * n)).filter(|at| *at < page.len()).collect()
}

/// The columns of a record. `None` unless it has exactly `columns` of them.
fn decode(record: &[u8], columns: usize) -> Option<Vec<Value>> {
    let mut head = 0;
    let end = usize::try_from(varint(record, &mut head)?).ok()?;
    let mut at = end;
    let mut row = Vec::with_capacity(columns);
    while head < end {
        let kind = varint(record, &mut head)?;
        let mut integer = |len: usize| {
            let bytes = record.get(at..at + len)?;
            at += len;
            let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
            let start = if negative { -1 } else { 0 };
            Some(Value::Integer(bytes.iter().fold(start, |number: i64, byte| number << 8 | i64::from(*byte))))
        };
        row.push(match kind {
            0 => Value::Null,
            1..=4 => integer(usize::try_from(kind).ok()?)?,
            5 => integer(6)?,
            6 => integer(8)?,
            8 | 9 => Value::Integer(kind - 8),
            13.. if kind % 2 == 1 => {
                let len = usize::try_from((kind - 13) / 2).ok()?;
                let bytes = record.get(at..at.checked_add(len)?)?;
                at += len;
                Value::Text(std::str::from_utf8(bytes).ok()?.to_owned())
            }
            // No table of this storage uses another type.
            _ => return None,
        });
        if row.len() > columns {
            return None;
        }
    }
    (row.len() == columns && at == record.len()).then_some(row)
}

/// A variable-length integer of up to nine bytes, with seven bits in each byte but the ninth, which has eight.
fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut number = 0_u64;
    for n in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if n == 8 {
            return Some((number << 8 | u64::from(byte)).cast_signed());
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(number.cast_signed())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length_are_read() {
        for (bytes, number) in [(&[0x05][..], 5), (&[0x81, 0x00], 128), (&[0xff; 9], -1)] {
            let mut at = 0;
            assert_eq!((varint(bytes, &mut at), at), (Some(number), bytes.len()));
        }
        assert_eq!(varint(&[0x81], &mut 0), None);
    }

    #[test]
    fn a_record_is_its_columns_and_nothing_else() {
        // NULL, -2 in one byte, 1, and a text of two bytes.
        let record = [5, 0, 1, 9, 17, 0xfe, b'a', b'b'];
        let row = [Value::Null, Value::Integer(-2), Value::Integer(1), Value::Text("ab".into())];
        assert_eq!(decode(&record, 4).as_deref(), Some(&row[..]));
        assert_eq!(decode(&record, 3), None);
        assert_eq!(decode(&record[..7], 4), None);
    }
}
