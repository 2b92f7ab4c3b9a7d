//! The rounds of a campaign.

use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::consumer::{Consumer, Signals};
use super::event::{BULK, HOARD, LATE, Queue, SHARED, SINGLE, TOPIC};
use super::history::History;
use super::publisher::Publisher;
use super::report::{Report, Totals};
use super::settings::{Mode, Settings};
use super::taking::{check_figures, drain, settle, subscribe, subscribe_in_passing, take_in_order};
use super::tally::Tally;
use crate::TestBroker;
use crate::power_cut::PowerCut;

/// The number of large events, of 375 KB on average, that accumulate before all are taken at once. Together they exceed 32 MiB, from
/// where sled frees space, and the free space that SQLite keeps.
const HOARDED: u64 = 110;

/// The most large events that accumulate.
const HOARD_FULL: u64 = 130;

/// Runs a campaign and calls `progress` after each round. The report includes every failure, even a panic.
#[must_use]
pub fn run(settings: &Settings, progress: &mut dyn FnMut(&Report)) -> Report {
    let began = Instant::now();
    let mut report = Report::new(settings.clone());
    let mut campaign = Campaign::new(settings);
    let ended = catch_unwind(AssertUnwindSafe(|| campaign.run(&mut report, progress)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        report.findings.push(text.unwrap_or("a panic without a text").to_owned());
    }
    report.findings.extend(campaign.history.findings());
    report.totals = Totals::of(&campaign.history);
    report.took = began.elapsed();
    if !report.findings.is_empty() {
        report.evidence = Some(campaign.keep_evidence(&report));
    }
    report
}

struct Campaign<'s> {
    settings: &'s Settings,
    rng: StdRng,
    broker: TestBroker,
    power_cut: Option<PowerCut>,
    history: Arc<History>,
    queues: Vec<Queue>,
    publishers: Vec<Publisher>,
    hoarder: Publisher,
    /// The time of a subscription's removal that may not be synced yet.
    removed_at: Option<Instant>,
}

impl<'s> Campaign<'s> {
    fn new(settings: &'s Settings) -> Self {
        let parent = settings.evidence.clone().unwrap_or_else(std::env::temp_dir);
        fs::create_dir_all(&parent).unwrap();
        let mut broker = TestBroker::prepare_in(&parent, &settings.config());
        // The broker creates the data directory inside an existing one, so it must also sync the directory's name.
        let store = broker.dir().join("store");
        fs::create_dir(&store).unwrap();
        let cuts_power = settings.mode == Mode::PowerCut;
        let power_cut = cuts_power.then(|| PowerCut::new(&mut broker, &store, settings.syncs_do_nothing));
        Self {
            settings,
            rng: StdRng::seed_from_u64(settings.seed),
            broker,
            power_cut,
            history: Arc::new(History::new(settings.mode)),
            queues: Vec::new(),
            publishers: (0..3).map(|number| Publisher::new(TOPIC, number.to_string())).collect(),
            hoarder: Publisher::new(BULK, "b".to_owned()),
            removed_at: None,
        }
    }

    fn run(&mut self, report: &mut Report, progress: &mut dyn FnMut(&Report)) {
        self.start();
        for queue in [SHARED, SINGLE, HOARD] {
            self.subscribe(queue);
        }
        for round in 0..self.settings.rounds {
            self.round(round, report);
            report.findings.extend(self.history.findings());
            if !report.findings.is_empty() {
                return;
            }
            report.rounds += 1;
            progress(report);
        }
        report.tally = self.settle_up(1000);
        report.findings.extend(self.history.findings());
        self.collect_log(report);
    }

    fn round(&mut self, round: u64, report: &mut Report) {
        let (last, at) = (self.settings.rounds - 1, |nth: u64, of: u64| round % of == nth);
        if round == self.settings.rounds / 3 {
            self.subscribe(LATE);
        }
        if at(2, 5) {
            self.removed_at = Some(subscribe_in_passing(&self.broker));
        }
        if at(24, 25) && round < last {
            self.settle_up(100);
        } else if round > 0 {
            take_in_order(&self.broker, [SINGLE, SHARED][usize::from(at(0, 2))], &self.history, 20);
        }
        if self.history.found_something() {
            // The data is still almost as the crash left it.
            return;
        }
        let makes_space = at(7, 10);
        if makes_space {
            self.empty_hoard();
        }
        let orderly = at(9, 10);
        self.load(makes_space, orderly);
        self.collect_log(report);
        if orderly {
            self.stopped(report);
        } else {
            self.crashed(report);
        }
        if at(3, 4) {
            // Killed again while it starts: during its recovery, or just before or after it.
            self.arm();
            self.broker.run_briefly(Duration::from_micros(self.rng.random_range(0..40_000)));
            self.collect_log(report);
            self.crashed(report);
        }
        self.start();
        let unsure = self.removed_at.is_some();
        check_figures(&self.broker, &self.queues, unsure, &self.history);
        if unsure {
            self.removed_at = Some(subscribe_in_passing(&self.broker));
        }
    }

    fn start(&mut self) {
        self.arm();
        self.broker.run();
    }

    fn arm(&mut self) {
        if let Some(power_cut) = &mut self.power_cut {
            power_cut.arm();
        }
    }

    /// Drops unsynced data from the disk.
    fn cut_power(&mut self, report: &mut Report) {
        if let Some(power_cut) = &mut self.power_cut {
            match power_cut.cut(&mut self.rng) {
                Ok(survival) => report.count_cut(&survival),
                Err(error) => report.findings.push(format!("the power cut is invalid: {error}")),
            }
        }
    }

    /// Creates a subscription, and publishes to it so that it is synced.
    fn subscribe(&mut self, queue: Queue) {
        subscribe(&self.broker, queue, &self.history);
        self.queues.push(queue);
        let (addr, seed) = (self.broker.addr(), self.rng.random());
        let publisher = if queue.topic == BULK { &mut self.hoarder } else { &mut self.publishers[0] };
        publisher.run(addr, &self.history, &Signals::default(), seed, 1);
    }

    /// Loads the broker with clients for a moment, then stops or kills it while they are connected. With `pause`, the clients leave
    /// first and the broker has time to free space.
    fn load(&mut self, pause: bool, orderly: bool) {
        let signals = Arc::new(Signals::default());
        let mut consumers = vec![(SHARED, 1), (SHARED, 50), (SHARED, 7), (SINGLE, 20)];
        if self.queues.contains(&LATE) {
            consumers.push((LATE, 20));
        }
        let mut threads: Vec<JoinHandle<Option<Publisher>>> = Vec::new();
        for (queue, prefetch) in consumers {
            let consumer = Consumer { addr: self.broker.addr(), queue, prefetch, seed: self.rng.random() };
            let (history, signals) = (Arc::clone(&self.history), Arc::clone(&signals));
            threads.push(std::thread::spawn(move || {
                consumer.run(&history, &signals);
                None
            }));
        }
        let hoards = !pause && self.history.bounds(HOARD).1 < HOARD_FULL;
        let hoarder = std::mem::replace(&mut self.hoarder, Publisher::new(BULK, String::new()));
        for mut publisher in self.publishers.drain(..).chain([hoarder]) {
            let (history, signals, addr) = (Arc::clone(&self.history), Arc::clone(&signals), self.broker.addr());
            let (seed, takes_part) = (self.rng.random(), publisher.topic() == TOPIC || hoards);
            threads.push(std::thread::spawn(move || {
                if takes_part {
                    publisher.run(addr, &history, &signals, seed, usize::MAX);
                }
                Some(publisher)
            }));
        }
        std::thread::sleep(Duration::from_millis(self.rng.random_range(20..self.settings.longest_load_ms)));
        if pause {
            signals.leave.store(true, Ordering::SeqCst);
            self.join(threads);
            threads = Vec::new();
            // sled and SQLite free space once no batch has arrived for a second.
            std::thread::sleep(Duration::from_millis(self.rng.random_range(950..1400)));
        }
        signals.ending.store(true, Ordering::SeqCst);
        if orderly {
            self.history.stopping();
            assert!(self.broker.terminate().success(), "an orderly stop succeeds:\n{}", self.broker.log());
        } else {
            self.broker.kill();
        }
        self.join(threads);
    }

    fn join(&mut self, threads: Vec<JoinHandle<Option<Publisher>>>) {
        for publisher in threads.into_iter().filter_map(|thread| thread.join().unwrap()) {
            if publisher.topic() == BULK {
                self.hoarder = publisher;
            } else {
                self.publishers.push(publisher);
            }
        }
        self.publishers.sort_by(|a, b| a.name().cmp(b.name()));
    }

    /// Handles an orderly stop: everything is synced, so even a power cut must not change anything.
    fn stopped(&mut self, report: &mut Report) {
        report.stops += 1;
        self.removed_at = None;
        self.history.stopped();
        if let Some(power_cut) = &self.power_cut {
            match power_cut.check_completeness() {
                Ok(()) => report.compared += 1,
                Err(error) => report.findings.push(format!("the power cut has not seen everything: {error}")),
            }
        }
        self.cut_power(report);
    }

    /// Handles a crash, after everything that the broker sent has been read.
    fn crashed(&mut self, report: &mut Report) {
        report.crashes += 1;
        let is_safe = |at: &Instant| self.settings.mode == Mode::Kill || self.history.is_safe(TOPIC, *at);
        self.removed_at = self.removed_at.filter(|at| !is_safe(at));
        self.history.crashed();
        self.cut_power(report);
        copy_dir(&self.broker.dir().join("store"), &self.broker.dir().join("crashed"));
    }

    /// Accumulates large events and takes them all, so that there is space to free.
    fn empty_hoard(&mut self) {
        let (addr, seed) = (self.broker.addr(), self.rng.random());
        let most = usize::try_from(HOARDED.saturating_sub(self.history.bounds(HOARD).0)).unwrap();
        self.hoarder.run(addr, &self.history, &Signals::default(), seed, most);
        drain(&self.broker, HOARD, &self.history, 8);
    }

    /// Takes all events, the first `most` of each subscription one by one, and compares them with the history.
    fn settle_up(&mut self, most: u64) -> Tally {
        let mut sum = Tally::default();
        for queue in self.queues.clone() {
            settle(&self.broker, queue);
            if queue.topic == TOPIC {
                take_in_order(&self.broker, queue, &self.history, most);
            }
            let drained = drain(&self.broker, queue, &self.history, if queue.topic == BULK { 8 } else { 500 });
            sum += self.history.settle_up(queue, &drained);
        }
        sum
    }

    /// Evaluates the broker's log, and keeps it as evidence.
    fn collect_log(&self, report: &mut Report) {
        let log = self.broker.log();
        report.read_log(&log);
        if self.settings.mode == Mode::Kill && report.damage_reports > 0 {
            self.history.violation(format!("a kill caused damage:\n{log}"));
        }
        let path = self.broker.dir().join("broker.log");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{log}\n-- the end of round {}", report.rounds).unwrap();
    }

    fn keep_evidence(&mut self, report: &Report) -> PathBuf {
        let dir = self.broker.keep_dir();
        let mut history = std::io::BufWriter::new(fs::File::create(dir.join("history.txt")).unwrap());
        self.history.write_to(&mut history).unwrap();
        fs::write(dir.join("last.log"), self.broker.log()).unwrap();
        fs::write(dir.join("findings.txt"), format!("{:?}\n\n{}", report.settings, report.findings.join("\n")))
            .unwrap();
        dir
    }
}

/// Copies a directory, replacing the target.
fn copy_dir(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
