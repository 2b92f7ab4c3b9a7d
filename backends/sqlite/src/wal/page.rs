//! Whether a page of a table or an index is in order: every byte belongs to one thing, and every row has the length that it says. See
//! <https://sqlite.org/fileformat2.html#b_tree_pages>.

const INDEX_INNER: u8 = 2;
const TABLE_INNER: u8 = 5;
const INDEX_LEAF: u8 = 10;
const TABLE_LEAF: u8 = 13;

/// The header of the database, at the start of page 1.
const DATABASE_HEADER: usize = 100;

/// The least bytes of a cell.
const LEAST_CELL: usize = 4;

/// Whether the page with the number `number` is in order. Pages of other kinds, such as the rest of a long row, cannot be checked and are.
pub(super) fn is_in_order(page: &[u8], number: u32) -> bool {
    let start = if number == 1 { DATABASE_HEADER } else { 0 };
    match page.get(start) {
        Some(&(INDEX_INNER | TABLE_INNER | INDEX_LEAF | TABLE_LEAF)) => is_tree_in_order(page, start).is_some(),
        // Page 1 is always of a table. Others: a page of the map, a free one, or the rest of a row.
        _ => number != 1,
    }
}

/// `None` for a page that is not in order.
fn is_tree_in_order(page: &[u8], start: usize) -> Option<()> {
    let kind = page[start];
    let cells = u16_at(page, start + 3)?;
    let list = start + if matches!(kind, INDEX_INNER | TABLE_INNER) { 12 } else { 8 };
    let content = match u16_at(page, start + 5)? {
        0 => 65_536,
        at => at,
    };
    if list + 2 * cells > content || content > page.len() {
        return None;
    }
    let mut taken = Vec::with_capacity(cells + 8);
    for cell in 0..cells {
        let at = u16_at(page, list + 2 * cell)?;
        taken.push((at, cell_length(page, at, kind)?));
    }
    let mut free = u16_at(page, start + 1)?;
    let mut after = 0;
    while free != 0 {
        let length = u16_at(page, free + 2)?;
        // They are listed in their order, with a gap between.
        if free < after || length < LEAST_CELL {
            return None;
        }
        taken.push((free, length));
        after = free + length;
        free = u16_at(page, free)?;
    }
    taken.sort_unstable();
    let mut at = content;
    let mut gaps = 0;
    for (begin, length) in taken {
        gaps += begin.checked_sub(at)?;
        at = begin + length;
    }
    gaps += page.len().checked_sub(at)?;
    (gaps == usize::from(page[start + 7])).then_some(())
}

/// The bytes of a cell in the page.
fn cell_length(page: &[u8], begin: usize, kind: u8) -> Option<usize> {
    let mut at = begin + if matches!(kind, INDEX_INNER | TABLE_INNER) { 4 } else { 0 };
    let payload = varint(page, &mut at)?;
    if kind == TABLE_INNER {
        return Some((at - begin).max(LEAST_CELL));
    }
    if kind == TABLE_LEAF {
        varint(page, &mut at)?;
    }
    let payload = usize::try_from(payload).ok()?;
    let usable = page.len();
    let least = (usable - 12) * 32 / 255 - 23;
    let most = if kind == TABLE_LEAF { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
    let local = if payload <= most {
        payload
    } else {
        let even = least + (payload - least) % (usable - 4);
        if even <= most { even } else { least }
    };
    is_record(page.get(at..at + local)?, payload)?;
    let overflow = if payload > most { 4 } else { 0 };
    Some((at + local + overflow - begin).max(LEAST_CELL))
}

/// Whether a record, of which `local` is the beginning, is as long as its columns. `None` if it is not.
fn is_record(local: &[u8], payload: usize) -> Option<()> {
    let mut at = 0;
    let header = usize::try_from(varint(local, &mut at)?).ok()?;
    if header > local.len() {
        // The list of columns goes on elsewhere.
        return Some(());
    }
    let mut length = header;
    while at < header {
        let column = match varint(local, &mut at)? {
            kind @ 0..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            8 | 9 => 0,
            10 | 11 => return None,
            kind => (kind - 12) / 2,
        };
        length = length.checked_add(usize::try_from(column).ok()?)?;
    }
    (at == header && length == payload).then_some(())
}

fn u16_at(page: &[u8], at: usize) -> Option<usize> {
    let bytes = page.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

/// Reads a number of one to nine bytes.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0;
    for n in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if n == 8 {
            return Some(number << 8 | u64::from(byte));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages of a database with rows of many lengths, some of them removed again.
    fn pages() -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        let statements = "pragma page_size = 8192; pragma auto_vacuum = incremental;
            create table a (n integer primary key, text text, number int);
            create table b (x int, y int, text text, primary key (x, y)) without rowid;
            with recursive n(n) as (select 1 union all select n + 1 from n where n < 900)
                insert into a select n, printf('%.*c', n * n % 9000, 'x'), n * 1000003 from n;
            insert into b select n % 7, n, text from a;
            delete from a where n % 5 = 0; delete from b where y % 3 = 0;";
        connection.execute_batch(statements).unwrap();
        drop(connection);
        std::fs::read(path).unwrap().chunks(8192).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn every_page_that_sqlite_writes_is_in_order() {
        for (at, page) in pages().iter().enumerate() {
            let number = u32::try_from(at).unwrap() + 1;
            assert!(is_in_order(page, number), "page {number}: {:?}", &page[..16]);
        }
    }

    #[test]
    fn a_flipped_bit_in_what_holds_a_page_together_is_found() {
        let pages = pages();
        let trees = pages.iter().skip(2).filter(|page| matches!(page[0], INDEX_LEAF | TABLE_LEAF)).take(20);
        for page in trees {
            let cells = u16_at(page, 3).unwrap();
            for bit in (0..8 * (8 + 2 * cells)).filter(|bit| *bit >= 8) {
                let mut flipped = page.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_in_order(&flipped, 3), "bit {bit} of {:?}", &page[..16]);
            }
        }
    }
}
