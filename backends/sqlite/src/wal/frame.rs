//! The bytes of the log: its header, its frames, and their checksums. See <https://sqlite.org/fileformat2.html#walformat>.

/// The length of the header, in bytes.
pub(super) const HEADER: usize = 32;

/// The length of what precedes the page in a frame, in bytes.
pub(super) const FRAME_HEADER: usize = 24;

/// The part of a frame's header that its checksum covers: the page number and the mark of a commit.
const COVERED: usize = 8;

/// The first four bytes of a log, whose last bit says how checksums read words.
const MAGIC: u32 = 0x377f_0682;

/// The only version of the format.
const VERSION: u32 = 3_007_000;

/// The order of the bytes of a word, as checksums read it. The numbers of a log are big-endian in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    Little,
    Big,
}

impl Words {
    fn read(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The byte of a word, and the mask in it, that hold its bit `bit`.
    fn place(self, bit: u32) -> (usize, u8) {
        let byte = (bit / 8) as usize;
        (if self == Self::Little { byte } else { 3 - byte }, 1 << (bit % 8))
    }
}

/// A checksum of SQLite's log: two sums, in which each word counts by its distance from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum(u32, u32);

impl Sum {
    /// The checksum that goes on from this one over `bytes`, in pairs of words. Bytes that fill no pair do not count.
    pub(super) fn over(self, words: Words, bytes: &[u8]) -> Self {
        let Self(mut first, mut second) = self;
        for pair in bytes.chunks_exact(8) {
            first = first.wrapping_add(words.read([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(second);
            second = second.wrapping_add(words.read([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(first);
        }
        Self(first, second)
    }

    fn stated(bytes: &[u8], at: usize) -> Self {
        Self(number(bytes, at), number(bytes, at + 4))
    }

    fn write(self, bytes: &mut [u8], at: usize) {
        put(bytes, at, self.0);
        put(bytes, at + 4, self.1);
    }

    /// The number of bits in which two checksums differ.
    pub(super) fn distance(self, other: Self) -> u32 {
        (self.0 ^ other.0).count_ones() + (self.1 ^ other.1).count_ones()
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0), self.1.wrapping_sub(other.1))
    }

    /// A word that is larger by `1 << bit` makes the checksum larger by this, if a word larger by 1 makes it larger by `self`.
    fn shifted(self, bit: u32) -> Self {
        Self(self.0 << bit, self.1 << bit)
    }

    fn negated(self) -> Self {
        Self(self.0.wrapping_neg(), self.1.wrapping_neg())
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    if let Some(target) = bytes.get_mut(at..at + 4) {
        target.copy_from_slice(&number.to_be_bytes());
    }
}

/// The header of a log.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) words: Words,
    pub(super) page_size: usize,
    /// How often the log began anew; of no use to recovery.
    sequence: u32,
    /// Changed each time the log begins anew, so that frames of earlier rounds, which are still behind the new ones, do not count.
    pub(super) salts: [u8; 8],
    /// The checksum that the first frame goes on from.
    pub(super) sum: Sum,
}

impl Header {
    /// Reads a header without damage; `None` for any other.
    pub(super) fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let words = match number(bytes, 0).checked_sub(MAGIC) {
            Some(0) => Words::Little,
            Some(1) => Words::Big,
            _ => return None,
        };
        let page_size = number(bytes, 8) as usize;
        let sum = Sum::default().over(words, &bytes[..24]);
        let sound = number(bytes, 4) == VERSION
            && page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size)
            && sum == Sum::stated(bytes, 24);
        let salts = bytes[16..24].try_into().ok()?;
        sound.then_some(Self { words, page_size, sequence: number(bytes, 12), salts, sum })
    }

    /// Headers without damage that differ from `bytes` in one bit.
    pub(super) fn mended(bytes: &[u8; HEADER]) -> Vec<Self> {
        let flipped = |bit: usize| {
            let mut bytes = *bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            Self::read(&bytes)
        };
        (0..8 * HEADER).filter_map(flipped).collect()
    }

    /// A header that is as good as one that cannot be read: with the page size of the database and the salts of the first frame.
    pub(super) fn replaced(bytes: &[u8; HEADER], words: Words, page_size: usize, salts: [u8; 8]) -> Self {
        Self { words, page_size, sequence: number(bytes, 12), salts, sum: Sum::stated(bytes, 24) }
    }

    /// The bytes of the header, with its checksum.
    pub(super) fn bytes(&self) -> ([u8; HEADER], Sum) {
        let mut bytes = [0; HEADER];
        put(&mut bytes, 0, MAGIC + u32::from(self.words == Words::Big));
        put(&mut bytes, 4, VERSION);
        put(&mut bytes, 8, u32::try_from(self.page_size).unwrap_or_default());
        put(&mut bytes, 12, self.sequence);
        bytes[16..24].copy_from_slice(&self.salts);
        let sum = Sum::default().over(self.words, &bytes[..24]);
        sum.write(&mut bytes, 24);
        (bytes, sum)
    }
}

/// A flipped bit: its byte in the frame, and the mask of the bit in that byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flip {
    pub(super) byte: usize,
    pub(super) mask: u8,
}

/// A frame: one page, as a transaction left it.
///
/// ```text
///   0       4       8          16          24
///   | page  | commit | salts   | checksum  | the page …
///   |<-- covered --->|                     |<-- covered -->
/// ```
///
/// `commit` is the size of the database in pages in the last frame of a transaction, and 0 in the others. The checksum goes on from that
/// of the frame before, so that it also covers everything in front of it.
#[derive(Debug, Clone)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    /// A frame of zeros for pages of `page_size` bytes.
    pub(super) fn new(page_size: usize) -> Self {
        Self(vec![0; FRAME_HEADER + page_size])
    }

    /// All bytes, to be read or written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The page's bytes.
    pub(super) fn content(&self) -> &[u8] {
        &self.0[FRAME_HEADER..]
    }

    /// The number of the page, from 1.
    pub(super) fn page(&self) -> u32 {
        number(&self.0, 0)
    }

    /// The size of the database in pages at the end of a transaction, else 0.
    pub(super) fn commit(&self) -> u32 {
        number(&self.0, 4)
    }

    pub(super) fn salts(&self) -> [u8; 8] {
        self.0[8..16].try_into().unwrap_or_default()
    }

    /// The checksum that the frame states.
    pub(super) fn stated(&self) -> Sum {
        Sum::stated(&self.0, 16)
    }

    /// The checksum of what the frame holds, if `before` is that of the frame before.
    pub(super) fn sum(&self, words: Words, before: Sum) -> Sum {
        before.over(words, &self.0[..COVERED]).over(words, self.content())
    }

    pub(super) fn flip(&mut self, flip: Flip) {
        if let Some(byte) = self.0.get_mut(flip.byte) {
            *byte ^= flip.mask;
        }
    }

    /// Every bit that, flipped back, gives the frame the checksum that it states.
    ///
    /// The checksum is linear: a word that is off by `e` puts it off by `e` times a pair of numbers that depends on the word's distance
    /// from the end alone. The low bits of a word are told apart by that; a high bit gives the same checksum in many words, since the pairs
    /// repeat in their low bits. So there are up to some thousand places, or none if more than one bit is flipped.
    pub(super) fn flips(&self, words: Words, before: Sum) -> Vec<Flip> {
        let error = self.sum(words, before).minus(self.stated());
        let mut found = Vec::new();
        // What an error of 1 in the first and in the second word of the last pair adds.
        let (mut first, mut second) = (Sum(1, 1), Sum(0, 1));
        let one_pair_earlier = |sum: Sum| {
            let Sum(a, b) = sum;
            Sum(a.wrapping_add(b), a.wrapping_add(b).wrapping_add(b))
        };
        let pages = (FRAME_HEADER..self.0.len()).step_by(8).rev();
        for pair in pages.chain(std::iter::once(0)) {
            for (word, weight) in [(pair, first), (pair + 4, second)] {
                for bit in 0..32 {
                    let off = weight.shifted(bit);
                    if error == off || error == off.negated() {
                        let (byte, mask) = words.place(bit);
                        found.push(Flip { byte: word + byte, mask });
                    }
                }
            }
            (first, second) = (one_pair_earlier(first), one_pair_earlier(second));
        }
        found.retain(|flip| {
            let mut mended = self.clone();
            mended.flip(*flip);
            mended.sum(words, before) == self.stated()
        });
        found
    }

    /// Writes the header anew, for a log with these salts whose last frame has the checksum `before`. Returns the new checksum.
    pub(super) fn seal(&mut self, header: &Header, commit: u32, before: Sum) -> Sum {
        put(&mut self.0, 4, commit);
        self.0[8..16].copy_from_slice(&header.salts);
        let sum = self.sum(header.words, before);
        sum.write(&mut self.0, 16);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(words: Words) -> (Frame, Sum) {
        let mut frame = Frame::new(4096);
        let mut state = 7_u32;
        for byte in frame.bytes_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        let before = Sum(12, 34);
        let header = Header { words, page_size: 4096, sequence: 0, salts: [1; 8], sum: before };
        frame.seal(&header, 5, before);
        (frame, before)
    }

    #[test]
    fn a_flipped_bit_is_among_the_places_that_its_checksum_allows() {
        for words in [Words::Little, Words::Big] {
            let (sound, before) = sealed(words);
            let covered = (0..COVERED).chain(FRAME_HEADER..FRAME_HEADER + 4096);
            for byte in covered.step_by(37) {
                for bit in 0..8 {
                    let flip = Flip { byte, mask: 1 << bit };
                    let mut frame = sound.clone();
                    frame.flip(flip);
                    assert!(frame.flips(words, before).contains(&flip), "{words:?} {flip:?}");
                }
            }
        }
    }

    #[test]
    fn two_flipped_bits_are_no_flipped_bit() {
        let (mut frame, before) = sealed(Words::Little);
        frame.flip(Flip { byte: 100, mask: 1 });
        frame.flip(Flip { byte: 2001, mask: 8 });
        assert_eq!(frame.flips(Words::Little, before), []);
    }

    #[test]
    fn a_header_with_a_flipped_bit_is_mended() {
        let header =
            Header { words: Words::Little, page_size: 8192, sequence: 3, salts: *b"saltsalt", sum: Sum::default() };
        let (sound, sum) = header.bytes();
        for bit in 0..8 * HEADER {
            let mut bytes = sound;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&bytes).is_none(), "bit {bit}");
            let mended = Header::mended(&bytes);
            assert!(mended.iter().any(|header| header.bytes().0 == sound && header.sum == sum), "bit {bit}");
        }
    }
}
