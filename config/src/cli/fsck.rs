//! `herald fsck`: finds the damage in a data directory, and repairs it.

use anyhow::Context as _;
use broker_core::storage::check::{Checked, Finding, Inspector, Repaired};

use super::exit::{DONE, FAILED, Status};
use super::offline::{self, Bar, count};
use super::serve::Sources;
use crate::output::{Output, OutputError};
use crate::validate::StorageSettings;

/// Check a data directory, and repair it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald fsck\n  herald fsck --repair --set storage.path=/var/lib/herald\n  \
                        herald fsck --json | jq -r '.finding.file // empty'\n\n\
                        The broker has to be stopped. Without --repair not a byte is changed. Each finding says what\n\
                        repairing does and what it loses; what does not check is moved to files below damaged/ in\n\
                        the data directory.\n\n\
                        Exit status: 0 clean, or repaired; 1 findings, or failed; 2 wrong usage or configuration.\n\
                        Notes are harmless and do not count.")]
pub(super) struct Args {
    /// Repair what is found
    #[arg(long)]
    repair: bool,
    /// Print findings as lines of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let settings = offline::prepare(&args.sources)?;
    offline::must_exist(&settings)?;
    let (repair, json) = (args.repair, args.json);
    let done = tokio::task::spawn_blocking(move || fsck(&settings, repair, json));
    done.await.context("the check panicked")?
}

fn fsck(settings: &StorageSettings, repair: bool, json: bool) -> anyhow::Result<Status> {
    let mut check = offline::check(settings)?;
    let mut report = Report { output: Output::stdout(), json, bar: Bar::new("checking", None, true), trouble: None };
    let checked = check.check(&mut report);
    report.bar.finish();
    report.trouble()?;
    let checked = checked?;
    let name = settings.path.display().to_string();
    report.checked(&name, &checked, repair)?;
    if checked.damage == 0 && !(repair && checked.notes > 0) {
        return Ok(DONE);
    }
    if !repair {
        return Ok(FAILED);
    }
    let mut again = Report { output: report.output, json, bar: Bar::new("repairing", None, true), trouble: None };
    let repaired = check.repair(&mut again);
    again.bar.finish();
    again.trouble()?;
    again.repaired(&name, &repaired?)?;
    Ok(DONE)
}

/// Prints findings as they are reported.
struct Report {
    output: Output,
    json: bool,
    bar: Bar,
    trouble: Option<OutputError>,
}

impl Inspector for Report {
    fn finding(&mut self, finding: Finding) {
        let line = if self.json { serde_json::json!({"finding": finding}).to_string() } else { finding.to_string() };
        let output = &mut self.output;
        let printed = self.bar.aside(|| output.line(&line).and_then(|()| output.flush()));
        if let Err(error) = printed {
            self.trouble.get_or_insert(error);
        }
    }

    fn progress(&mut self, done: u64, total: u64) {
        self.bar.set_of(done, total);
    }
}

impl Report {
    fn trouble(&mut self) -> Result<(), OutputError> {
        self.trouble.take().map_or(Ok(()), Err)
    }

    fn checked(&mut self, name: &str, checked: &Checked, repair: bool) -> Result<(), OutputError> {
        let line = if self.json {
            serde_json::json!({"checked": checked}).to_string()
        } else {
            let read = format!("{}, {} bytes", count(checked.records, "record"), checked.bytes);
            match (checked.damage, repair) {
                (0, _) => format!("{name}: clean ({read})"),
                (damage, true) => format!("{name}: {} ({read})", count(damage, "finding")),
                (damage, false) => format!(
                    "{name}: {} ({read}); nothing was changed, `herald fsck --repair` repairs",
                    count(damage, "finding")
                ),
            }
        };
        self.output.line(&line)?;
        self.output.flush()
    }

    fn repaired(&mut self, name: &str, repaired: &Repaired) -> Result<(), OutputError> {
        let line = if self.json {
            serde_json::json!({"repaired": repaired}).to_string()
        } else {
            let moved: Vec<String> = repaired.side_files.iter().map(|path| path.display().to_string()).collect();
            let moved = if moved.is_empty() { String::new() } else { format!("; moved out to {}", moved.join(", ")) };
            format!("{name}: repaired{moved}")
        };
        self.output.line(&line)?;
        self.output.flush()
    }
}
