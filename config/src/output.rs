//! Output. Data goes to standard output, messages to standard error. A reader that has gone away ends the program quietly instead
//! of with a panic. Control characters reach files and pipes as they are, and terminals escaped.

#[cfg(unix)]
mod pipe;
mod terminal;

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};

#[cfg(unix)]
pub(crate) use pipe::Pipe;
pub(crate) use terminal::{escape, escape_all};

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader has gone. This is not an error to report.
    #[error("standard output is closed")]
    Closed,
    /// Any other failure, such as a full disk.
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
pub struct Output {
    buffer: BufWriter<Stdout>,
    terminal: bool,
}

impl Output {
    /// Standard output of this process.
    #[must_use]
    pub fn stdout() -> Self {
        Self { buffer: BufWriter::with_capacity(64 * 1024, io::stdout()), terminal: stdout_is_terminal() }
    }

    /// Writes `text`; to a terminal with its control characters escaped.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn text(&mut self, text: &str) -> Result<(), OutputError> {
        let written = if self.terminal { escape(text) } else { text.into() };
        Ok(self.buffer.write_all(written.as_bytes())?)
    }

    /// Writes `bytes`, which are lines of UTF-8, as [`Output::text`] does.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        if self.terminal {
            return self.text(&String::from_utf8_lossy(bytes));
        }
        Ok(self.buffer.write_all(bytes)?)
    }

    /// Writes `line` and its ending.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn line(&mut self, line: &str) -> Result<(), OutputError> {
        self.text(line)?;
        Ok(self.buffer.write_all(b"\n")?)
    }

    /// Hands what is buffered to the operating system.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.buffer.flush()?)
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

/// Writes a line to standard error, to a terminal with its control characters escaped. A failure is ignored.
pub fn message(text: &str) {
    let shown = if stderr_is_terminal() { escape(text) } else { text.into() };
    let _closed = writeln!(io::stderr().lock(), "{shown}");
}

/// Whether standard output is a terminal.
#[must_use]
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// `rows` as a table, the header first. The first `left` columns are aligned left, the others, which hold numbers, right.
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
            // Padded by hand: a width in a format string panics above 65,535.
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if column < left { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
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
    fn a_cell_of_any_length_fits_a_table() {
        let long = "x".repeat(100_000);
        let text = table(&[vec!["A".to_owned(), "B".to_owned()], vec![long.clone(), "1".to_owned()]], 1);
        assert!(text.ends_with(&format!("{long}  1\n")));
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_failure() {
        assert!(matches!(OutputError::from(io::Error::from(io::ErrorKind::BrokenPipe)), OutputError::Closed));
        assert!(matches!(OutputError::from(io::Error::from(io::ErrorKind::StorageFull)), OutputError::Failed(_)));
    }
}
