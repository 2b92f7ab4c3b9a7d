//! The checksum that ends every line: written by [`seal`], verified by [`check`].
//!
//! ```text
//!   {"batch":913,"left":0,"settle":{…}   ,"crc":"81a413f5"}  \n
//!   └────────── covered ─────────────┘   └──── the seal ──┘
//! ```

const CRC_KEY: &[u8] = br#","crc":""#;

/// The length of `,"crc":"01234567"}`.
pub(super) const SEAL_BYTES: usize = CRC_KEY.len() + 8 + 2;

/// Ends the line that begins at `start`: writes its checksum, the closing brace and the line ending.
pub(super) fn seal(out: &mut Vec<u8>, start: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(CRC_KEY);
    let mut digits = [0_u8; 8];
    for (n, digit) in digits.iter_mut().enumerate() {
        *digit = HEX[(crc >> (28 - 4 * n) & 15) as usize];
    }
    out.extend_from_slice(&digits);
    out.extend_from_slice(b"\"}\n");
}

/// The checksum at the start of `seal`; `None` if there is no well-formed seal.
fn parse_seal(seal: &[u8]) -> Option<u32> {
    let digits = seal.strip_prefix(CRC_KEY)?.get(..10)?.strip_suffix(b"\"}")?;
    let mut crc = 0_u32;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        crc = crc << 4 | u32::from(value);
    }
    Some(crc)
}

/// Verifies a line, given without its line ending. Returns the part that its checksum covers, or `None` if it does not match.
pub(crate) fn check(line: &[u8]) -> Option<&[u8]> {
    let (body, seal) = line.split_at_checked(line.len().checked_sub(SEAL_BYTES)?)?;
    (crc32fast::hash(body) == parse_seal(seal)?).then_some(body)
}

/// The length of the valid record at the start of `bytes`, if any. Separates two lines whose line ending in between is damaged.
pub(crate) fn leading_record(bytes: &[u8]) -> Option<usize> {
    let mut hasher = crc32fast::Hasher::new();
    let mut hashed = 0;
    for at in memchr::memmem::find_iter(bytes, CRC_KEY) {
        hasher.update(&bytes[hashed..at]);
        hashed = at;
        if let Some(seal) = bytes.get(at..at + SEAL_BYTES)
            && parse_seal(seal) == Some(hasher.clone().finalize())
        {
            return Some(at + SEAL_BYTES);
        }
    }
    None
}
