//! What is printed. Data goes to standard output, messages to standard error, and a reader that has gone away ends the
//! program quietly instead of with a panic.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Whoever read it has gone: nothing is wrong, and nobody is left to tell.
    #[error("standard output is closed")]
    Closed,
    /// Anything else: a full disk, say.
    #[error("cannot write to standard output")]
    Failed(#[source] io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Failed(error) }
    }
}

/// Standard output, buffered.
#[derive(Debug)]
pub struct Output(BufWriter<Stdout>);

impl Output {
    /// Standard output of this process.
    #[must_use]
    pub fn stdout() -> Self {
        Self(BufWriter::with_capacity(64 * 1024, io::stdout()))
    }

    /// Writes `text` as it is.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn text(&mut self, text: &str) -> Result<(), OutputError> {
        Ok(self.0.write_all(text.as_bytes())?)
    }

    /// Writes `bytes` as they are.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        Ok(self.0.write_all(bytes)?)
    }

    /// Writes `line` and its ending.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn line(&mut self, line: &str) -> Result<(), OutputError> {
        self.0.write_all(line.as_bytes())?;
        Ok(self.0.write_all(b"\n")?)
    }

    /// Hands what is buffered to the operating system.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.0.flush()?)
    }
}

/// Writes `text` to standard output and flushes it.
///
/// # Errors
/// [`OutputError`].
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut output = Output::stdout();
    output.text(text)?;
    output.flush()
}

/// Writes a line to standard error; if nobody reads it, there is nobody to tell.
pub fn message(text: &str) {
    let _nobody_reads = writeln!(io::stderr().lock(), "{text}");
}

/// Whether a person looks at standard error.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Rows as a table: the first is the header; numbers, which all columns but the first `left` hold, to the right.
#[must_use]
pub fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["TOPIC", "WAITING"]), row(["tweets.long", "7"]), row(["é", "12"])], 1);
        assert_eq!(text, "TOPIC        WAITING\ntweets.long        7\né                 12\n");
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_failure() {
        assert!(matches!(OutputError::from(io::Error::from(io::ErrorKind::BrokenPipe)), OutputError::Closed));
        assert!(matches!(OutputError::from(io::Error::from(io::ErrorKind::StorageFull)), OutputError::Failed(_)));
    }
}
