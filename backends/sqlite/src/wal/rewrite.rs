//! Writes the part of a log that counts anew, with checksums that SQLite accepts.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::frame::{Frame, HEADER};
use super::scan::{Scan, State};

impl Scan {
    /// Writes the first `keep` frames of `log` to the new file `draft`, durably.
    ///
    /// A frame that is not of this log is left out: its page stays as an earlier frame or the database has it. One that is damaged is taken
    /// as it is: a page with a damaged row is better than an earlier page, which others do not fit. Each row has a checksum of its own.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub(super) fn write(&self, log: &Path, draft: &Path, keep: usize) -> io::Result<()> {
        let mut input = BufReader::with_capacity(1 << 20, File::open(log)?);
        input.seek(SeekFrom::Start(HEADER as u64))?;
        let mut output = BufWriter::with_capacity(1 << 20, File::create(draft)?);
        let (header, mut sum) = self.header.bytes();
        output.write_all(&header)?;
        let mut frame = Frame::new(self.header.page_size);
        for entry in self.frames.iter().take(keep) {
            input.read_exact(frame.bytes_mut())?;
            if let Some(flip) = entry.flip {
                frame.flip(flip);
            }
            let commit = match entry.state {
                State::Foreign => continue,
                // No page has the number 0.
                State::Broken if entry.page == 0 => continue,
                // Its transaction ends with the next one.
                State::Broken => 0,
                State::Intact | State::Mended | State::Flipped => entry.commit,
            };
            sum = frame.seal(&self.header, commit, sum);
            output.write_all(frame.bytes_mut())?;
        }
        output.flush()?;
        output.get_ref().sync_all()
    }
}
