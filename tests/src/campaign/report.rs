//! The results of a campaign.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::history::History;
use super::settings::Settings;
use super::tally::Tally;
use crate::power_cut::Survival;

/// The totals of a campaign.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Events sent.
    pub published: u64,
    /// Events confirmed to their publishers.
    pub confirmed: u64,
    /// Events sent again, because a crash came before their confirmation.
    pub retried: u64,
    /// Acknowledgements answered, in all subscriptions.
    pub acknowledged: u64,
    /// Deliveries with a `redelivered` count.
    pub redelivered: u64,
}

impl Totals {
    pub(super) fn of(history: &History) -> Self {
        let state = history.state();
        let count = |count: usize| count as u64;
        let events = state.sides.values().flat_map(|side| side.events.values());
        Self {
            published: count(state.published.len()),
            confirmed: count(state.published.values().filter(|published| published.confirmed.is_some()).count()),
            retried: state.retried,
            acknowledged: count(events.filter(|event| event.ack_answered.is_some()).count()),
            redelivered: state.redeliveries,
        }
    }
}

/// The outcome of a campaign.
#[derive(Debug)]
pub struct Report {
    /// The settings of the run.
    pub settings: Settings,
    /// Completed rounds.
    pub rounds: u64,
    /// Crashes, including those during a start.
    pub crashes: u64,
    /// Orderly stops.
    pub stops: u64,
    /// The duration of the campaign.
    pub took: Duration,
    /// The totals.
    pub totals: Totals,
    /// The final outcome of all confirmed events, over all subscriptions.
    pub tally: Tally,
    /// The log lines that show that the storage frees space, with their counts.
    pub cleaned: Vec<(&'static str, u64)>,
    /// The number of power cuts for each choice of what survives.
    pub cuts: BTreeMap<&'static str, u64>,
    /// Orderly stops after which the power cut's records were compared with the directory.
    pub compared: u64,
    /// How often the storage cut a torn tail.
    pub torn: u64,
    /// How often the storage reported damage.
    pub damage_reports: u64,
    /// The violations found.
    pub findings: Vec<String>,
    /// The directory of the evidence, if anything was found.
    pub evidence: Option<PathBuf>,
}

impl Report {
    pub(super) fn new(settings: Settings) -> Self {
        let cleaned = settings.backend.cleaning().iter().map(|what| (*what, 0)).collect();
        Self {
            settings,
            rounds: 0,
            crashes: 0,
            stops: 0,
            took: Duration::ZERO,
            totals: Totals::default(),
            tally: Tally::default(),
            cleaned,
            cuts: BTreeMap::new(),
            compared: 0,
            torn: 0,
            damage_reports: 0,
            findings: Vec::new(),
            evidence: None,
        }
    }

    pub(super) fn count_cut(&mut self, survival: &Survival) {
        *self.cuts.entry(survival.name()).or_default() += 1;
    }

    /// Evaluates the log of one run of the broker.
    pub(super) fn read_log(&mut self, log: &str) {
        for line in log.lines() {
            for (what, count) in &mut self.cleaned {
                *count += u64::from(line.contains(*what));
            }
            self.torn += u64::from(line.contains("torn end was cut off"));
            self.damage_reports += u64::from(line.contains(" ERROR ") && line.contains("damage"));
        }
    }

    /// The required observations that this campaign lacks.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let (totals, rounds) = (&self.totals, self.rounds);
        let mut missed = Vec::new();
        let mut need = |is_there: bool, what: &str| {
            if !is_there {
                missed.push(what.to_owned());
            }
        };
        need(totals.confirmed > rounds * 20 && totals.acknowledged > rounds * 20, "a load worth the name");
        need(totals.redelivered > rounds, "redeliveries");
        need(totals.retried > 0, "events sent again");
        need(self.cleaned.iter().any(|(_, count)| *count > 0), "the storage giving space back");
        missed
    }

    /// Whether no violation was found and the campaign has observed enough.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.is_empty() && self.tally.adds_up() && self.missed().is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { backend, durability, mode, seed, .. } = &self.settings;
        let Totals { published, confirmed, retried, redelivered, .. } = self.totals;
        let Tally { confirmed: owed, acknowledged, dead_lettered, waiting, undecided, lost } = self.tally;
        writeln!(f, "{backend}, {mode}, durability {durability}, seed {seed}")?;
        let (rounds, crashes, stops, seconds) = (self.rounds, self.crashes, self.stops, self.took.as_secs());
        writeln!(f, "  {rounds} rounds, {crashes} crashes, {stops} orderly stops, {seconds} s")?;
        writeln!(
            f,
            "  events      {published} sent, {confirmed} confirmed, {retried} of them sent again after a crash"
        )?;
        writeln!(f, "  owed        {owed} (confirmed events, once for each subscription that was there)")?;
        writeln!(
            f,
            "              = {acknowledged} acknowledged + {dead_lettered} dead-lettered + {waiting} still waiting \
             + {undecided} acknowledged without an answer"
        )?;
        writeln!(f, "  redelivered {redelivered}")?;
        if !self.cuts.is_empty() {
            let cuts: Vec<_> = self.cuts.iter().map(|(what, count)| format!("{what} {count} times")).collect();
            writeln!(f, "  survived    of the unsynced: {}", cuts.join(", "))?;
            writeln!(f, "  recorded    every byte, compared after {} orderly stops", self.compared)?;
        }
        let cleaned: Vec<_> = self.cleaned.iter().map(|(what, count)| format!("\"{what}\" {count} times")).collect();
        writeln!(f, "  space       {}", cleaned.join(", "))?;
        writeln!(f, "  recovery    {} torn ends cut off, {} reports of damage", self.torn, self.damage_reports)?;
        for missed in self.missed() {
            writeln!(f, "  missed      {missed}: this campaign shows little")?;
        }
        if self.findings.is_empty() && lost == 0 {
            return write!(f, "  found wrong 0");
        }
        writeln!(f, "  found wrong {}", self.findings.len())?;
        for finding in self.findings.iter().take(20) {
            writeln!(f, "    {finding}")?;
        }
        let evidence = self.evidence.as_deref().unwrap_or_else(|| std::path::Path::new("-"));
        write!(f, "  evidence    {}", evidence.display())
    }
}
