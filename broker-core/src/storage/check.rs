//! Offline check and repair of a data directory: the seam behind `herald fsck`.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::StorageError;

/// Checks and repairs the data directory of one kind of storage. Holds the directory's lock from its creation until it is
/// dropped.
///
/// # Contract
///
/// - **Checking changes nothing**: no byte below the directory, no file is created or removed.
/// - **Complete.** A check reports whatever opening the storage would report as damage. A storage without
///   [`Severity::Damage`] starts even with `on_damage = "stop"`.
/// - **Repairing loses only what was found**, and the findings say so in advance. Damaged records are moved to files below
///   `damaged/` ([`SideRecord`]), which a broker never reads. A repair can be killed at any instant: the storage is then
///   unrepaired, or repaired in part or whole, and repairing it again continues.
/// - **Blocking.** Both read all data. Memory is bounded.
pub trait Check: Send {
    /// The storage's kind, as [`super::Storage::kind`].
    fn kind(&self) -> &'static str;

    /// Reports every finding to `inspector`, and returns the totals.
    ///
    /// # Errors
    /// When the directory is missing, of another kind, or cannot be read.
    fn check(&mut self, inspector: &mut dyn Inspector) -> Result<Checked, StorageError>;

    /// Repairs what [`Check::check`] finds. A check afterwards finds no [`Severity::Damage`].
    ///
    /// # Errors
    /// When the repair fails. The text says what is left to do; nothing is lost.
    fn repair(&mut self, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError>;
}

/// Receives findings and progress while a check runs.
pub trait Inspector: Send {
    /// Takes a finding.
    fn finding(&mut self, finding: Finding);

    /// Reports that `done` of `total` bytes have been read.
    fn progress(&mut self, done: u64, total: u64) {
        let _not_shown = (done, total);
    }
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Harmless. A repair leaves it or tidies it up.
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

/// A finding's position in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// The whole file.
    Whole,
    /// The byte that it starts at.
    Byte(u64),
    /// The key or row.
    Key(String),
}

/// Something that is wrong with the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// The file or directory.
    pub file: PathBuf,
    /// The position in it.
    pub at: At,
    /// A description.
    pub what: String,
    /// The effect of a repair.
    pub repair: String,
    /// The data that a repair would lose.
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

/// The totals of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Valid records.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Findings that are damage.
    pub damage: u64,
    /// Other findings.
    pub notes: u64,
}

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Records that were moved out, or corrected at a loss.
    pub records: u64,
    /// The files that they were moved to.
    pub side_files: Vec<PathBuf>,
}

/// The folder below the data directory for records that were moved out. A broker never reads it.
pub const SIDE_FOLDER: &str = "damaged";

/// The ending of files of [`SideRecord`]s. It differs from that of a log's files, so that they are not mistaken for one.
pub const SIDE_ENDING: &str = ".ndjson";

/// A record that was moved out, as a line of JSON in a file below [`SIDE_FOLDER`].
#[derive(Debug, Clone, Copy)]
pub struct SideRecord<'a> {
    /// The name of the file it was in, without the directory.
    pub file: &'a str,
    /// Its position there: a byte or a key.
    pub at: &'a str,
    /// The reason that it was moved out.
    pub what: &'a str,
    /// Its bytes, unchanged.
    pub bytes: &'a [u8],
}

impl SideRecord<'_> {
    /// Appends the line to `out`. Text is written under `text`, other bytes as hexadecimal digits under `hex`.
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

/// Passes findings on to an inspector and counts them.
pub struct Findings<'i> {
    inspector: &'i mut dyn Inspector,
    /// The counts so far.
    pub checked: Checked,
}

impl<'i> Findings<'i> {
    /// No findings yet; `inspector` hears of each.
    pub fn new(inspector: &'i mut dyn Inspector) -> Self {
        Self { inspector, checked: Checked::default() }
    }

    /// Counts a finding and passes it on.
    pub fn add(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Damage => self.checked.damage += 1,
            Severity::Note => self.checked.notes += 1,
        }
        self.inspector.finding(finding);
    }

    /// Passes progress on.
    pub fn progress(&mut self, done: u64, total: u64) {
        self.inspector.progress(done, total);
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
