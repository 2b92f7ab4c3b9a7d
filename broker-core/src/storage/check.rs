//! The seam for looking after a data directory that no broker uses: what is wrong with it, what repairing it would lose, and
//! the repair.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::StorageError;

/// Checks and repairs the data directory of one kind of storage. Made with the directory's lock, if a broker ever had it, and
/// keeps it until it is dropped.
///
/// # Contract
///
/// - **Checking changes nothing**: not one byte below the directory, no file comes or goes.
/// - **Complete.** What an opened storage would report as damage, checking reports; a storage without a [`Severity::Damage`]
///   starts even where damage is to stop it.
/// - **Repairing loses nothing but what was found**, and says so before. What does not check is moved to files below `damaged/`
///   ([`SideRecord`]), which nobody reads but people. It can be killed at any instant: the storage is as it was or repaired, in part
///   or whole, and repairing it again goes on.
/// - **Blocking.** Both read everything there is. Memory is bounded.
pub trait Check: Send {
    /// The storage's kind, as [`super::Storage::kind`].
    fn kind(&self) -> &'static str;

    /// Finds out what is wrong.
    ///
    /// # Errors
    /// When that cannot be found out: the directory is missing, of another kind, or cannot be read.
    fn check(&mut self, inspector: &mut dyn Inspector) -> Result<Checked, StorageError>;

    /// Repairs what [`Check::check`] has found. Checking again afterwards finds no [`Severity::Damage`].
    ///
    /// # Errors
    /// When it cannot: the text says what is left to do. Nothing is lost then.
    fn repair(&mut self, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError>;
}

/// Hears of what is found while it is found.
pub trait Inspector: Send {
    /// Takes a finding.
    fn finding(&mut self, finding: Finding);

    /// So many bytes of so many have been read.
    fn progress(&mut self, done: u64, total: u64) {
        let _not_shown = (done, total);
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Harmless; repairing leaves it, or tidies it up.
    Note,
    /// Something is lost or undecided until it is repaired.
    Damage,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Damage => "damage",
        })
    }
}

/// Where in a file something was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// All of it.
    Whole,
    /// From this byte on.
    Byte(u64),
    /// Under this key or in this row.
    Key(String),
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or directory.
    pub file: PathBuf,
    /// Where in it.
    pub at: At,
    /// What it is.
    pub what: String,
    /// What repairing would do.
    pub repair: String,
    /// What repairing would lose.
    pub loses: String,
}

impl fmt::Display for Finding {
    /// Three lines for an operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6}  {}", self.severity, self.file.display())?;
        match &self.at {
            At::Whole => {}
            At::Byte(byte) => write!(f, " at byte {byte}")?,
            At::Key(key) => write!(f, ", {key}")?,
        }
        write!(f, ": {}\n        repair: {}\n        loses:  {}", self.what, self.repair, self.loses)
    }
}

/// What a check has looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Records that check.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Findings that are damage.
    pub damage: u64,
    /// Other findings.
    pub notes: u64,
}

/// What a repair has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Records that were moved out, or put right with something lost.
    pub records: u64,
    /// Where they were moved to.
    pub side_files: Vec<PathBuf>,
}

/// The folder below the data directory for what was moved out. Nothing in it is ever read by a broker.
pub const SIDE_FOLDER: &str = "damaged";

/// The ending of files of [`SideRecord`]s. Not that of a log's files: what is in them does not check.
pub const SIDE_ENDING: &str = ".ndjson";

/// What was moved out, as a line of JSON in a file below [`SIDE_FOLDER`].
#[derive(Debug, Clone, Copy)]
pub struct SideRecord<'a> {
    /// The file that it was in, without its directory.
    pub file: &'a str,
    /// Where in it: a byte or a key.
    pub at: &'a str,
    /// What is wrong with it.
    pub what: &'a str,
    /// Its bytes, as they were found.
    pub bytes: &'a [u8],
}

impl SideRecord<'_> {
    /// Appends the line to `out`. Bytes that are text are under `text`, others as hexadecimal digits under `hex`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        use crate::event::write_json_string;
        const HEX: &[u8; 16] = b"0123456789abcdef";
        out.extend_from_slice(br#"{"file":"#);
        write_json_string(out, self.file);
        out.extend_from_slice(br#","at":"#);
        write_json_string(out, self.at);
        out.extend_from_slice(br#","what":"#);
        write_json_string(out, self.what);
        match std::str::from_utf8(self.bytes) {
            Ok(text) => {
                out.extend_from_slice(br#","text":"#);
                write_json_string(out, text);
            }
            Err(_) => {
                out.extend_from_slice(br#","hex":""#);
                for byte in self.bytes {
                    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                }
                out.push(b'"');
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_out_can_be_read_by_any_program() {
        let mut out = Vec::new();
        for bytes in [&b"a \"line\"\n"[..], &[0xff, 0x00, 0x1a]] {
            SideRecord { file: "x.jsonl", at: "12", what: "it is wrong", bytes }.encode(&mut out);
        }
        let text = String::from_utf8(out).expect("it is JSON");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        assert_eq!(lines[0]["text"], "a \"line\"\n");
        assert_eq!(lines[1]["hex"], "ff001a");
        assert_eq!(lines[1]["at"], "12");
    }

    #[test]
    fn a_finding_says_where_what_and_what_it_costs() {
        let finding = Finding {
            severity: Severity::Damage,
            file: PathBuf::from("data/x"),
            at: At::Byte(7),
            what: "a bad line".into(),
            repair: "moves it out".into(),
            loses: "one record".into(),
        };
        let text = "damage  data/x at byte 7: a bad line\n        repair: moves it out\n        loses:  one record";
        assert_eq!(finding.to_string(), text);
    }
}
