//! `herald import`: loads an export into an empty data directory. An interrupted import can be run again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use broker_core::storage::{Batch, Commit, Mutation, Storage};
use broker_core::transfer::{Contents, Importer, MAX_LINE_BYTES, Parsed, Progress, Totals};
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::exit::{DONE, Status};
use super::export::describe;
use super::offline::{self, Bar};
use super::serve::Sources;
use crate::output::print;
use crate::validate::StorageSettings;

/// The most mutations in one batch, unless a single line has more.
const BATCH: usize = 1024;

/// The bytes of lines that complete a batch.
const BATCH_BYTES: u64 = 1 << 20;

/// The most batches that are not yet durable: enough for one sync to cover several, few enough for memory.
const OUTSTANDING: usize = 8;

/// Fill an empty data directory with an export
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald import backup.jsonl --set storage.path=new\n  \
                        zcat backup.jsonl.gz | herald import - --set storage.path=new\n\n\
                        The data directory has to be empty. A file is checked to its end before anything is written;\n\
                        standard input is checked while it is read. An import that was interrupted, by whatever, goes\n\
                        on where it was when it is run again with the same input; until then `herald serve` refuses\n\
                        the directory.")]
pub(super) struct Args {
    /// The export; `-` for standard input
    #[arg(value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    file: PathBuf,
    /// Print what was imported as a line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let settings = offline::prepare(&args.sources)?;
    let input = Input::open(&args.file)?;
    let (storage, contents, _report) = offline::open(&settings, Contents::default()).await?;
    let target = settings.path.display();
    let before = match contents.import {
        None if contents.anything => anyhow::bail!(
            "the data directory {target} is not empty: import into one that is, with --set storage.path=…"
        ),
        before => before,
    };
    let mut import = Import { storage: &*storage, before, commits: VecDeque::new() };
    let imported = import.run(input, &args.file).await;
    // Closed after a failure too: the stored part is kept for the next attempt.
    let closed = storage.close().await;
    drop(storage);
    let Done { totals, resumed_at, already } = match imported {
        Ok(done) => done,
        Err(error) => {
            let named =
                if args.file == Path::new("-") { "standard input".to_owned() } else { args.file.display().to_string() };
            let kept = kept(&settings).await;
            return Err(error.context(format!("cannot import {named}; {kept}")));
        }
    };
    closed?;
    if args.json {
        let line = serde_json::json!({"imported": totals, "resumed_at": resumed_at, "already": already});
        print(&format!("{line}\n"))?;
        return Ok(DONE);
    }
    let text = if already {
        format!("{target} holds this export already: nothing was done\n")
    } else {
        let resumed = resumed_at.map(|line| format!(", going on after line {line}")).unwrap_or_default();
        format!("imported {} into {target} ({}){resumed}\n", describe(&totals), settings.kind)
    };
    print(&text)?;
    Ok(DONE)
}

/// Describes the directory after a failure. It is opened again for that: a batch that failed may be stored all the same.
async fn kept(settings: &StorageSettings) -> String {
    let target = settings.path.display();
    match offline::open(settings, Contents::default()).await {
        Ok((storage, contents, _report)) => {
            let closed = storage.close().await;
            match (closed, contents.import) {
                (_, Some(progress)) if !progress.finished => format!(
                    "what was imported is kept in {target}, and `herald serve` refuses it, until the import of the whole goes on \
                     from there"
                ),
                (_, Some(_)) => format!("{target} holds the whole of an import, and `herald serve` serves it"),
                (_, None) => format!("nothing was imported, and `herald serve` starts empty in {target}"),
            }
        }
        Err(error) => format!(
            "`herald serve` cannot open {target} ({error}): when that is mended, run the import again with the same file"
        ),
    }
}

/// The outcome of an import.
struct Done {
    totals: Totals,
    /// The number of lines that an earlier run had stored; `None` if this run began at the start or found nothing to do.
    resumed_at: Option<u64>,
    /// Whether the directory held the whole export already.
    already: bool,
}

struct Import<'s> {
    storage: &'s dyn Storage,
    /// The progress that an earlier run has stored.
    before: Option<Progress>,
    commits: VecDeque<Commit>,
}

impl Import<'_> {
    async fn run(&mut self, mut input: Input, file: &Path) -> anyhow::Result<Done> {
        if let Some(len) = input.len {
            // The whole file is checked first, so damage is found before anything is written.
            let bar = Bar::new("checking", Some(len), true);
            let mut importer = Importer::default();
            while let Some(line) = input.line(&importer)? {
                importer.line(line)?;
                bar.set(input.read);
            }
            importer.end()?;
            bar.finish();
            input = Input::open(file)?;
        }
        let before = self.before.clone();
        let stored = before.as_ref().map_or(0, |before| before.lines);
        let bar = Bar::new("importing", input.len, true);
        let mut importer = Importer::default();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let totals = loop {
            let Some(line) = input.line(&importer)? else {
                importer.end()?;
                anyhow::bail!("the file ends too early");
            };
            let len = line.len() as u64;
            let parsed = importer.line(line)?;
            bar.set(input.read);
            let mutations = match parsed {
                Parsed::End(totals) => break totals,
                Parsed::Mutations(mutations) => mutations,
            };
            let progress = importer.progress();
            if progress.lines <= stored {
                if progress.lines == stored {
                    same_file(before.as_ref(), &progress)?;
                }
                continue;
            }
            anyhow::ensure!(!before.as_ref().is_some_and(|before| before.finished), OTHER_FILE);
            batch.extend(mutations);
            bytes += len;
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                self.submit(std::mem::take(&mut batch), &progress).await?;
                bytes = 0;
            }
        };
        // Lines after the last one are an error too.
        while let Some(line) = input.line(&importer)? {
            importer.line(line)?;
        }
        anyhow::ensure!(importer.totals().lines >= stored, OTHER_FILE);
        let already = before.as_ref().is_some_and(|before| before.finished);
        if !already {
            self.submit(batch, &importer.progress()).await?;
            self.wait(0).await?;
        }
        bar.finish();
        Ok(Done { totals, resumed_at: (stored > 0 && !already).then_some(stored), already })
    }

    /// Submits a batch together with the progress up to it, so that both become durable in one commit.
    async fn submit(&mut self, mut mutations: Vec<Mutation>, progress: &Progress) -> anyhow::Result<()> {
        mutations.push(progress.to_mutation());
        self.commits.push_back(self.storage.submit(Batch { mutations }));
        self.wait(OUTSTANDING).await
    }

    /// Waits until at most `outstanding` batches are not yet durable.
    async fn wait(&mut self, outstanding: usize) -> anyhow::Result<()> {
        while self.commits.len() > outstanding {
            let Some(commit) = self.commits.pop_front() else { break };
            commit.written.await?;
            commit.durable.await?;
        }
        Ok(())
    }
}

const OTHER_FILE: &str = "the data directory holds (the beginning of) another import: go on with the file of that one, or import into an empty directory";

fn same_file(before: Option<&Progress>, now: &Progress) -> anyhow::Result<()> {
    let same = before.is_none_or(|before| before.lines == now.lines && before.crc32 == now.crc32);
    anyhow::ensure!(same, OTHER_FILE);
    Ok(())
}

/// The lines of a file or of standard input.
struct Input {
    reader: Box<dyn BufRead + Send>,
    /// The size of a file, which can be read twice; `None` for standard input.
    len: Option<u64>,
    line: Vec<u8>,
    /// Bytes read so far.
    read: u64,
}

impl Input {
    fn open(path: &Path) -> anyhow::Result<Self> {
        const BUFFER: usize = 256 << 10;
        if path == Path::new("-") {
            let reader = Box::new(BufReader::with_capacity(BUFFER, io::stdin()));
            return Ok(Self { reader, len: None, line: Vec::new(), read: 0 });
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.with_context(|| format!("cannot open {}", path.display()))?;
        anyhow::ensure!(
            !metadata.is_dir(),
            "{} is a directory: expected a file that `herald export` wrote",
            path.display()
        );
        let len = metadata.is_file().then_some(metadata.len());
        Ok(Self { reader: Box::new(BufReader::with_capacity(BUFFER, file)), len, line: Vec::new(), read: 0 })
    }

    /// The next line without its ending; `None` at the end.
    fn line(&mut self, importer: &Importer) -> anyhow::Result<Option<&[u8]>> {
        self.line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let at = importer.totals().lines + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line);
        let read = read.with_context(|| format!("cannot read line {at}"))? as u64;
        self.read += read;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        anyhow::ensure!(self.line.len() <= MAX_LINE_BYTES, "line {at}: longer than any line of an export");
        Ok(Some(&self.line))
    }
}
