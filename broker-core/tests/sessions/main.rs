//! Random sessions, checked against a model of the protocol: several connections to one broker, bytes in and lines out, under
//! random policies, with a clock that advances only when the script says so.
//!
//! | to find | look in |
//! | --- | --- |
//! | the steps of a script, and their generator | [`script`], [`author`] |
//! | the replies and deliveries that are expected | [`model`] |
//! | the broker under test, and its storage | [`broker`], [`storage`] |
//! | the comparison of both | [`seen`] |
//!
//! Each seed generates one script. A failing seed is printed with the shortest script that still fails, and can be repeated by
//! `SESSION_SEED=<seed> cargo test -p broker-core --test sessions`. `SESSION_SEQUENCES=20000` runs that many seeds instead of 300,
//! starting at `SESSION_SEED` if given. `SESSION_STEPS` sets the length of a script.

mod author;
mod broker;
mod model;
mod random;
mod script;
mod seen;
mod storage;

use std::fmt::Write as _;
use std::str::FromStr;

use author::Author;
use broker::Broker;
use model::Model;
use script::{CONNECTIONS, Script, Step};
use seen::Seen;

/// A broker and the model of it.
struct Run {
    broker: Broker,
    model: Model,
    epoch: Option<u64>,
    /// The steps and the lines sent, for reports.
    transcript: String,
}

impl Run {
    async fn new(script: &Script) -> Self {
        let broker = Broker::open(script, CONNECTIONS).await;
        let model = Model::new(script.policy.clone(), CONNECTIONS);
        Self { broker, model, epoch: None, transcript: String::new() }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let _ = writeln!(self.transcript, "  {step}");
        match step {
            Step::Connect(at) if self.model.connections[*at].is_none() => {
                self.broker.connect(*at).await;
                self.compare(|model, seen| model.connect(*at, seen))
            }
            Step::Send(at, lines, cuts) if self.model.connections[*at].is_some() => {
                let text = script::bytes(lines);
                let mut pieces = Vec::new();
                let mut rest = text.as_slice();
                for cut in cuts.iter().cycle() {
                    let (piece, left) = rest.split_at(rest.len().min(*cut));
                    pieces.push(piece);
                    rest = left;
                    if rest.is_empty() {
                        break;
                    }
                }
                self.broker.send(*at, &pieces).await;
                self.compare(|model, seen| {
                    lines.iter().try_for_each(|line| match model.connections[*at] {
                        Some(_) => model.line(*at, line, seen, lines.len() == 1),
                        None => Ok(()),
                    })
                })
            }
            Step::Lose(at) if self.model.connections[*at].is_some() => {
                self.broker.send(*at, &[b"unsub a"]).await;
                self.broker.lose(*at).await;
                self.compare(|model, seen| model.lose(*at, seen))
            }
            Step::Pass(ms) => {
                let mut left = *ms;
                while left > 0 {
                    let ms = self.model.quiet_for().unwrap_or(left).clamp(1, left);
                    self.broker.pass(ms).await;
                    self.compare(|model, seen| model.pass(ms, seen))?;
                    left -= ms;
                }
                Ok(())
            }
            Step::Connect(_) | Step::Send(..) | Step::Lose(_) => Ok(()),
        }
    }

    /// Compares what was sent since the last call with what the model expects.
    fn compare(&mut self, predict: impl FnOnce(&mut Model, &mut Seen) -> Result<(), String>) -> Result<(), String> {
        let lines = self.broker.take_lines();
        self.transcript.push_str(&Seen::describe(&lines));
        let mut seen = Seen::new(lines, self.epoch);
        predict(&mut self.model, &mut seen)?;
        self.epoch = seen.epoch;
        seen.is_explained()
    }
}

/// Runs on a paused clock.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("there is a thread").block_on(future)
}

/// Generates a script while running it. If it fails, returns it up to that point.
fn play(seed: u64, steps: usize) -> Option<Script> {
    let mut author = Author::new(seed);
    let mut script = author.setting();
    run(async {
        let mut run = Run::new(&script).await;
        for _ in 0..steps {
            let step = author.step(&run.model);
            script.steps.push(step.clone());
            if run.step(&step).await.is_err() {
                return Some(script);
            }
        }
        None
    })
}

/// Runs a script again. Returns the failure and the transcript up to it.
fn replay(script: &Script) -> Option<(String, String)> {
    run(async {
        let mut run = Run::new(script).await;
        for step in &script.steps {
            if let Err(wrong) = run.step(step).await {
                return Some((wrong, run.transcript));
            }
        }
        None
    })
}

/// Shrinks a failing script by removing steps that it does not need to fail.
fn shorten(mut script: Script) -> Script {
    let mut many = script.steps.len() / 2;
    while many > 0 {
        let mut at = 0;
        while at < script.steps.len() {
            let mut shorter = script.clone();
            shorter.steps.drain(at..(at + many).min(script.steps.len()));
            if replay(&shorter).is_some() {
                script = shorter;
            } else {
                at += many;
            }
        }
        many /= 2;
    }
    script
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn random_sessions_follow_the_protocol() {
    let steps = setting("SESSION_STEPS").unwrap_or(60);
    let seed = setting::<u64>("SESSION_SEED");
    let sequences = setting("SESSION_SEQUENCES").unwrap_or(if seed.is_some() { 1 } else { 300 });
    let first = seed.unwrap_or(0);
    let seeds = first..first + sequences;
    for seed in seeds {
        let Some(script) = play(seed, steps) else { continue };
        let script = shorten(script);
        let (wrong, transcript) = replay(&script).unwrap_or_else(|| ("it fails only sometimes".into(), String::new()));
        panic!("SESSION_SEED={seed}: {wrong}\n\nof {script}\nwhich went\n{transcript}");
    }
}
