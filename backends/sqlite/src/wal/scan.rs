//! Reads a log to its end, also behind damage, and decides how much of it counts.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::frame::{FRAME_HEADER, Flip, Frame, HEADER, Header, Sum, Words};
use super::page;

/// Offset of the page size in the header of a database.
const PAGE_SIZE_AT: usize = 16;

/// A commit that is further beyond the size of the database than this, in pages, is no commit.
const MOST_GROWTH: u32 = 1 << 20;

/// How much of a frame can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its checksum matches.
    Intact,
    /// A bit that was flipped is put right, and its checksum matches.
    Mended,
    /// A bit is flipped, and it is unknown which.
    Flipped,
    /// Its checksum does not match, and it says that it belongs to this log.
    Broken,
    /// It is not of this log: of an earlier round, or nothing.
    Foreign,
}

impl State {
    /// Whether the frame was written in this round of the log for certain.
    fn is_sure(self) -> bool {
        matches!(self, Self::Intact | Self::Mended | Self::Flipped)
    }
}

/// A frame, without its page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) state: State,
    /// The number of its page.
    pub(super) page: u32,
    /// The size of the database if a transaction ends here, else 0.
    pub(super) commit: u32,
    /// The bit to put right when its bytes are read again.
    pub(super) flip: Option<Flip>,
}

/// A log that was read to its end.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) header: Header,
    pub(super) is_header_damaged: bool,
    pub(super) frames: Vec<Entry>,
}

/// The part of a log that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The frames that count, from the first: up to the end of a transaction.
    pub(super) keep: usize,
    /// Transactions that are there to their end and do not count, because one before them is incomplete.
    pub(super) incomplete: usize,
}

impl Scan {
    /// Reads the log of `database`. `None` if it is too short to hold anything.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) fn read(log: &Path, database: &Path) -> io::Result<Option<Self>> {
        let mut input = BufReader::with_capacity(1 << 20, File::open(log)?);
        let mut start = [0; HEADER];
        if read_whole(&mut input, &mut start)?.is_none() {
            return Ok(None);
        }
        let header = Header::read(&start);
        let is_header_damaged = header.is_none();
        let mut found = None;
        for header in header.map_or_else(|| replacements(&start, log, database), |header| Ok(vec![header]))? {
            input.seek(SeekFrom::Start(HEADER as u64))?;
            let frames = Reader::new(header.clone(), &start, log, database).read(&mut input)?;
            let reads = frames.iter().any(|entry| entry.state.is_sure());
            found = Some(Self { header, is_header_damaged, frames });
            if reads {
                break;
            }
        }
        Ok(found)
    }

    /// Decides how much counts. `always`: each commit was synced before the next frame was written.
    ///
    /// A frame whose checksum does not match is either damage, or the end that a power cut left of a transaction that was not synced. With
    /// `always` it is damage if the next transaction follows, which would not be there if the one before had not been synced. A flipped bit
    /// is damage in any case. Without `always` the system may have written later frames before earlier ones, and a gap proves nothing.
    pub(super) fn verdict(&self, always: bool) -> Verdict {
        let commits =
            |from: usize| self.frames.iter().skip(from).filter(|entry| entry.state.is_sure() && entry.commit > 0);
        let ends_before = |at: usize| {
            self.frames[..at]
                .iter()
                .rposition(|entry| entry.state.is_sure() && entry.commit > 0)
                .map_or(0, |end| end + 1)
        };
        let mut keep = ends_before(self.frames.len());
        // The first end of a transaction at or behind each frame, from the back.
        let mut next_end = vec![self.frames.len(); self.frames.len() + 1];
        for (at, entry) in self.frames.iter().enumerate().rev() {
            let ends = entry.commit > 0 && entry.state != State::Foreign;
            next_end[at] = if ends { at } else { next_end[at + 1] };
        }
        let is_doubtful = |at: &usize| matches!(self.frames[*at].state, State::Broken | State::Foreign);
        // Its checksum goes on from that of the end: what an abandoned transaction has left behind does not count.
        let was_synced =
            |at: &usize| always && self.frames.get(next_end[*at] + 1).is_some_and(|entry| entry.state.is_sure());
        if let Some(torn) = (0..keep).find(|at| is_doubtful(at) && !was_synced(at)) {
            keep = ends_before(torn);
        }
        Verdict { keep, incomplete: commits(keep).count() }
    }
}

/// Fills `buffer`; `None` at the end of the input, or behind its last whole frame.
fn read_whole(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<()>> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The headers that a damaged one may have been, the likeliest first.
fn replacements(start: &[u8; HEADER], log: &Path, database: &Path) -> io::Result<Vec<Header>> {
    let mut bytes = [0; HEADER + FRAME_HEADER];
    if read_whole(&mut File::open(log)?, &mut bytes)?.is_none() {
        return Ok(Vec::new());
    }
    // The first frame is of this round, unless nothing was written since the log began anew.
    let mut salts = [0; 8];
    salts.copy_from_slice(&bytes[HEADER + 8..HEADER + 16]);
    let mut headers = Header::mended(start);
    headers.sort_by_key(|header| header.salts != salts);
    let mut first = [0; 100];
    if read_whole(&mut File::open(database)?, &mut first)?.is_some() {
        let size = usize::from(u16::from_be_bytes([first[PAGE_SIZE_AT], first[PAGE_SIZE_AT + 1]]));
        let size = if size == 1 { 65_536 } else { size };
        if size.is_power_of_two() && size >= 512 {
            headers.extend([Words::Little, Words::Big].map(|words| Header::replaced(start, words, size, salts)));
        }
    }
    Ok(headers)
}

/// Reads frame after frame.
struct Reader {
    header: Header,
    /// What the checksum of the next frame may go on from. More than one after a damaged frame: the checksum that it states, and that of
    /// its bytes.
    seeds: Vec<Sum>,
    frames: Vec<Entry>,
    /// The latest frame of each page that can be believed.
    latest: HashMap<u32, usize>,
    /// The size of the database in pages, as the latest commit says.
    size: u32,
    log: std::path::PathBuf,
    database: std::path::PathBuf,
}

impl Reader {
    fn new(header: Header, start: &[u8; HEADER], log: &Path, database: &Path) -> Self {
        let mut seeds = vec![header.sum];
        let as_it_is = Sum::default().over(header.words, &start[..24]);
        if as_it_is != header.sum {
            seeds.push(as_it_is);
        }
        let bytes = std::fs::metadata(database).map_or(0, |metadata| metadata.len());
        let size = u32::try_from(bytes / header.page_size as u64).unwrap_or(u32::MAX);
        let (log, database) = (log.to_owned(), database.to_owned());
        Self { header, seeds, frames: Vec::new(), latest: HashMap::new(), size, log, database }
    }

    fn read(mut self, input: &mut impl Read) -> io::Result<Vec<Entry>> {
        let mut frame = Frame::new(self.header.page_size);
        while read_whole(input, frame.bytes_mut())?.is_some() {
            let entry = self.take(&frame)?;
            if entry.state.is_sure() {
                self.latest.insert(entry.page, self.frames.len());
                if entry.commit > 0 {
                    self.size = entry.commit;
                }
            }
            self.frames.push(entry);
        }
        Ok(self.frames)
    }

    fn take(&mut self, frame: &Frame) -> io::Result<Entry> {
        let words = self.header.words;
        let entry = |state, frame: &Frame, flip| Entry { state, page: frame.page(), commit: frame.commit(), flip };
        let stated = frame.stated();
        let is_ours = frame.salts() == self.header.salts;
        let follows_ours = self.frames.last().is_none_or(|entry| entry.state != State::Foreign);
        if is_ours || follows_ours {
            for seed in self.seeds.clone() {
                let sum = frame.sum(words, seed);
                if sum == stated {
                    self.seeds = vec![stated];
                    let state = if is_ours { State::Intact } else { State::Mended };
                    return Ok(entry(state, frame, None));
                }
                // The checksum itself was hit.
                if is_ours && sum.distance(stated) == 1 {
                    self.seeds = vec![sum];
                    return Ok(entry(State::Mended, frame, None));
                }
            }
        }
        if !is_ours {
            self.seeds = vec![stated];
            return Ok(entry(State::Foreign, frame, None));
        }
        for seed in self.seeds.clone() {
            let flips = frame.flips(words, seed);
            if flips.is_empty() {
                continue;
            }
            self.seeds = vec![stated];
            let Some(flip) = self.choose(frame, &flips)? else { return Ok(entry(State::Flipped, frame, None)) };
            let mut mended = frame.clone();
            mended.flip(flip);
            return Ok(entry(State::Mended, &mended, Some(flip)));
        }
        let sums = self.seeds.first().map(|seed| frame.sum(words, *seed));
        self.seeds = std::iter::once(stated).chain(sums).collect();
        let sound = self.is_plausible(frame);
        let Entry { page, commit, .. } = entry(State::Broken, frame, None);
        Ok(Entry {
            state: State::Broken,
            page: if sound { page } else { 0 },
            commit: if sound { commit } else { 0 },
            flip: None,
        })
    }

    /// Chooses the flipped bit among those that give the right checksum: the only one, the only one with a possible header, the only one
    /// that leaves the page in order, or the only one in a byte that differs from the page as it was before.
    fn choose(&self, frame: &Frame, flips: &[Flip]) -> io::Result<Option<Flip>> {
        if let [flip] = flips {
            return Ok(Some(*flip));
        }
        let mended = |flip: &Flip| {
            let mut mended = frame.clone();
            mended.flip(*flip);
            mended
        };
        let in_header = || flips.iter().filter(|flip| flip.byte < FRAME_HEADER);
        if !self.is_plausible(frame) {
            return Ok(only(in_header().copied().filter(|flip| self.is_plausible(&mended(flip)))));
        }
        let as_stated = self.before(frame.page())?;
        let alike = |page: &Option<Vec<u8>>| {
            page.iter().flatten().zip(frame.content()).filter(|(before, now)| before == now).count()
        };
        let mut others = Vec::new();
        for flip in in_header().filter(|flip| flip.byte < 4 && self.is_plausible(&mended(flip))) {
            let as_mended = self.before(mended(flip).page())?;
            if alike(&as_mended) > alike(&as_stated).max(frame.content().len() / 2) {
                others.push(*flip);
            }
        }
        if !others.is_empty() {
            return Ok(only(others.into_iter()));
        }
        let in_content = || flips.iter().copied().filter(|flip| flip.byte >= FRAME_HEADER);
        if !page::is_in_order(frame.content(), frame.page()) {
            return Ok(only(in_content().filter(|flip| page::is_in_order(mended(flip).content(), frame.page()))));
        }
        // Where the page is as it was before, nothing was flipped.
        let is_changed = |flip: &Flip| {
            let at = flip.byte.checked_sub(FRAME_HEADER)?;
            Some(as_stated.as_ref()?.get(at)? != frame.content().get(at)?)
        };
        Ok(only(in_content().filter(|flip| is_changed(flip) == Some(true))))
    }

    /// Whether the page and the commit of a frame can be what was written.
    fn is_plausible(&self, frame: &Frame) -> bool {
        let most = self.size.saturating_add(MOST_GROWTH);
        let commit = frame.commit();
        (1..=most).contains(&frame.page()) && (commit == 0 || (frame.page()..=most).contains(&commit))
    }

    /// The page as it was before: in the log, else in the database.
    fn before(&self, page: u32) -> io::Result<Option<Vec<u8>>> {
        let size = self.header.page_size;
        let (path, at) = match (self.latest.get(&page), page.checked_sub(1)) {
            (Some(frame), _) => (&self.log, position(size, *frame) + FRAME_HEADER as u64),
            (None, Some(before)) => (&self.database, u64::from(before) * size as u64),
            (None, None) => return Ok(None),
        };
        let mut bytes = vec![0; size];
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(read_whole(&mut file, &mut bytes)?.map(|()| bytes))
    }
}

/// The byte that a frame starts at, counted from 0.
pub(super) fn position(page_size: usize, frame: usize) -> u64 {
    HEADER as u64 + frame as u64 * (FRAME_HEADER + page_size) as u64
}

/// The only item of `items`.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    if items.next().is_some() { None } else { first }
}
