//! Loads feed messages from files. They are checked once and then held in memory.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::FeedError;
use super::random::mix;

/// The size limit of all feed files together, in bytes: they are held in memory.
pub const MAX_FILE_BYTES: usize = 256 << 20;

/// The size limit of one line of a feed file, in bytes. A tweet with every field has about 10,000.
pub const MAX_FEED_LINE_BYTES: usize = 1 << 20;

/// The message of the reference system's feed on which a worker has to crash. It is not JSON.
pub(super) const PANIC: &str = "{\"message\": panic}";

/// The lines of all files, in order.
#[derive(Debug)]
pub(super) struct Lines {
    text: String,
    lines: Vec<Range<usize>>,
}

impl Lines {
    /// Reads and checks `paths`. Blank lines, a byte order mark and carriage returns are left out. The literal
    /// `{"message": panic}` is accepted like any line, because recordings of the real feed contain it.
    pub(super) fn load(paths: &[PathBuf]) -> Result<Self, FeedError> {
        Self::load_at_most(paths, MAX_FILE_BYTES)
    }

    fn load_at_most(paths: &[PathBuf], limit: usize) -> Result<Self, FeedError> {
        let mut all = Self { text: String::new(), lines: Vec::new() };
        for path in paths {
            let room = limit - all.text.len();
            let mut bytes = Vec::new();
            // The file's reported size is not used: a device or a pipe has none.
            File::open(path)
                .and_then(|file| file.take(room as u64 + 1).read_to_end(&mut bytes))
                .map_err(|source| FeedError::Read { path: path.clone(), source })?;
            if bytes.len() > room {
                return Err(FeedError::TooLarge { path: path.clone(), limit });
            }
            all.add(path, &bytes)?;
        }
        if all.lines.is_empty() {
            return Err(FeedError::NoMessage { paths: paths.to_vec() });
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path, bytes: &[u8]) -> Result<(), FeedError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (nth, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line =
                check(line).map_err(|problem| FeedError::Line { path: path.to_owned(), line: nth + 1, problem })?;
            if !line.is_empty() {
                let start = self.text.len();
                self.text.push_str(line);
                self.lines.push(start..self.text.len());
            }
        }
        Ok(())
    }

    /// Line number `n`, counted from 0, starting over after the last.
    pub(super) fn get(&self, n: u64) -> &str {
        // The remainder fits into a `usize`, and `load` refuses files without lines.
        &self.text[self.lines[(n % self.lines.len() as u64) as usize].clone()]
    }

    /// A hash of the lines (FNV-1a over the lines and their ends).
    pub(super) fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for line in &self.lines {
            for byte in self.text[line.clone()].bytes().chain([b'\n']) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        mix(hash)
    }
}

/// The message in a line without surrounding blanks, or the problem with it.
fn check(line: &[u8]) -> Result<&str, String> {
    if line.len() > MAX_FEED_LINE_BYTES {
        return Err(format!("the line has {} bytes, more than {MAX_FEED_LINE_BYTES}", line.len()));
    }
    let line = std::str::from_utf8(line).map_err(|e| format!("not UTF-8 after byte {}", e.valid_up_to()))?;
    // Only the blanks that JSON allows.
    let line = line.trim_matches([' ', '\t', '\r']);
    if !line.is_empty() && line != PANIC {
        serde_json::from_str::<IgnoredAny>(line).map_err(|e| match e.column() {
            0 => format!("not JSON: {e}"),
            // serde_json sees a single line, so of its position only the column is useful.
            column => {
                let text = e.to_string();
                let cause = text.split(" at line ").next().unwrap_or_default();
                format!("not JSON: {cause} at column {column}")
            }
        })?;
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A file that is removed at the end of the test.
    struct TempFile(PathBuf);

    impl TempFile {
        fn new(content: impl AsRef<[u8]>) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("herald-feed-files-{}-{n}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            Self(path)
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn load(contents: &[&[u8]]) -> Result<Lines, FeedError> {
        let files: Vec<TempFile> = contents.iter().map(TempFile::new).collect();
        let paths: Vec<PathBuf> = files.iter().map(|file| file.0.clone()).collect();
        Lines::load(&paths)
    }

    #[test]
    fn lines_come_in_order_and_start_over() {
        let lines = load(&[b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"a\":2}", b"{\"message\": panic}\n[3]\n"]).unwrap();
        let got: Vec<&str> = (0..6).map(|n| lines.get(n)).collect();
        let expected = ["{\"a\":1}", "{\"a\":2}", PANIC, "[3]", "{\"a\":1}", "{\"a\":2}"];
        assert_eq!(got, expected);
        assert_eq!(lines.get(u64::MAX), lines.get(u64::MAX % 4));
    }

    #[test]
    fn an_error_names_file_and_line() {
        let problem = |content: &[u8]| {
            let error = load(&[b"{}\n", content]).unwrap_err();
            assert!(matches!(error, FeedError::Line { line: 3, .. }), "{error:?}");
            error.to_string()
        };
        let text = problem(b"{}\n\n{\"a\": nope}\n{}\n");
        assert!(text.contains("herald-feed-files-") && text.contains(":3: not JSON: expected"), "{text}");
        assert!(!text.contains("line 1"), "{text}");
        assert!(problem(b"{}\n\n\xff\xfe\n").contains("not UTF-8"));
        assert!(problem(b"{}\n\n{} {}\n").contains("trailing characters"));
        assert!(problem(&[b"{}\n\n\"".as_slice(), &[b'x'; MAX_FEED_LINE_BYTES], b"\""].concat()).contains("more than"));
    }

    #[test]
    fn a_file_that_is_missing_empty_or_too_large_is_an_error() {
        let got = Lines::load(&[PathBuf::from("no-such-file.json")]);
        assert!(matches!(got, Err(FeedError::Read { .. })), "{got:?}");
        let got = load(&[b"\n\n", b""]);
        assert!(matches!(got, Err(FeedError::NoMessage { .. })), "{got:?}");
        let files = [TempFile::new("{}\n"), TempFile::new("{\"a\":1}\n")];
        let got = Lines::load_at_most(&[files[0].0.clone(), files[1].0.clone()], 9);
        assert!(matches!(got, Err(FeedError::TooLarge { limit: 9, .. })), "{got:?}");
        Lines::load_at_most(&[files[0].0.clone(), files[1].0.clone()], 10).unwrap();
    }

    #[test]
    fn different_contents_have_different_hashes() {
        let hash = |content: &[u8]| load(&[content]).unwrap().hash();
        assert_eq!(hash(b"1\n2\n"), hash(b"1\n\n2"));
        assert_ne!(hash(b"1\n2\n"), hash(b"12\n"));
        assert_ne!(hash(b"1\n2\n"), hash(b"2\n1\n"));
    }
}
