//! Runs the blocks of one section like a reader: in order, in one folder, in one shell.

use std::path::Path;

use herald_tests::is_as_written;

use crate::markdown::{Block, Section};
use crate::shell::Shell;
use crate::{builds, root};

/// Programs that run until the section ends, and their output once they are ready.
const SERVERS: [(&str, &str); 4] = [
    ("herald serve", "herald is up"),
    ("herald demo", "Ctrl-C stops it"),
    ("herald feed", "listening"),
    ("python3 -m http.server", "Serving HTTP"),
];

/// Programs that need a running broker.
const CLIENTS: [&str; 10] = [
    "herald pub",
    "herald sub",
    "herald topics",
    "herald stats",
    "herald dead",
    "nc ",
    "telnet ",
    "PYTHONPATH=",
    "node ",
    "printf ",
];

/// The first words of lines typed to a broker or to the pipeline's console.
const TYPED: [&str; 17] = [
    "pub", "sub", "unsub", "detach", "ack", "nack", "touch", "term", "peek", "redrive", "purge", "hello", "topics",
    "stats", "ping", "quit", "twitter",
];

/// Runs a section; an error names the line in the document.
pub(crate) fn run(section: &Section) -> Result<(), String> {
    let runs = |block: &&Block| block.by().is_none() && !["text", "transcript", "rust"].contains(&block.kind.as_str());
    for block in &section.blocks {
        check_elsewhere(block).map_err(|why| format!("{}:{}: {why}", section.path, block.line))?;
    }
    let blocks: Vec<&Block> = section.blocks.iter().filter(runs).collect();
    if blocks.is_empty() {
        return Ok(());
    }
    let (folder, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != "target") {
            std::os::unix::fs::symlink(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut shell = Shell::start(folder.path(), programs.path());
    let commands: Vec<&str> =
        blocks.iter().flat_map(|block| &block.text).map(|line| line.trim_start_matches("$ ")).collect();
    let starts = |line: &&str, with: &[&str]| with.iter().any(|program| line.starts_with(program));
    let serves = commands.iter().any(|line| starts(line, &["herald serve", "herald demo"]));
    if !serves && commands.iter().any(|line| starts(line, &CLIENTS)) {
        shell.serve("herald serve", "herald is up").map_err(|why| format!("{}: herald serve: {why}", section.path))?;
    }
    for block in blocks {
        let done = match block.kind.as_str() {
            "console" => console(&mut shell, block),
            "sh" => sh(&mut shell, block),
            _ => write(&mut shell, folder.path(), block).map_err(|why| (block.line, why)),
        };
        done.map_err(|(line, why)| format!("{}:{line}: {why}", section.path))?;
    }
    Ok(())
}

/// Checks a block that is not run here: the file that checks it must exist, and lines quoted from a source file must be in that file.
fn check_elsewhere(block: &Block) -> Result<(), String> {
    if let Some(by) = block.by() {
        return if root().join(by).is_file() { Ok(()) } else { Err(format!("no file {by}")) };
    }
    if block.kind != "rust" {
        return Ok(());
    }
    let file = block.file.as_deref().ok_or("the block does not name the source file")?;
    let source = std::fs::read_to_string(root().join(file)).map_err(|error| format!("{file}: {error}"))?;
    let mut lines = source.lines().map(str::trim);
    match block.text.iter().find(|wanted| !lines.any(|line| line == wanted.trim())) {
        Some(wanted) => Err(format!("{file} lacks this line, or has it in another place: {wanted}")),
        None => Ok(()),
    }
}

/// Writes the file that a block shows, and checks it if it is a configuration.
fn write(shell: &mut Shell, folder: &Path, block: &Block) -> Result<(), String> {
    let file = block.file.as_deref().unwrap_or("herald.toml");
    std::fs::write(folder.join(file), block.text.join("\n") + "\n").map_err(|error| format!("{file}: {error}"))?;
    if block.kind != "toml" {
        return Ok(());
    }
    match shell.run(&format!("herald config check --config {file}"))? {
        0 => {
            shell.rest();
            Ok(())
        }
        status => Err(format!("{file}: exit status {status}: {}", shell.rest().join("\n"))),
    }
}

/// Starts a command; returns its status if it has ended.
fn start(shell: &mut Shell, command: &str) -> Result<Option<i32>, String> {
    let command = command.trim_end_matches(" &");
    let bare = command.split(" #").next().unwrap().trim_end();
    if let Some((_, ready)) = SERVERS.iter().find(|(program, _)| bare.starts_with(program)) {
        return shell.serve(bare, ready).map(|()| None);
    }
    if command.contains("cargo ") {
        return builds::check(command).map(|()| Some(0));
    }
    shell.run(command).map(Some)
}

/// Runs a block of commands, each of which has to succeed.
fn sh(shell: &mut Shell, block: &Block) -> Result<(), (usize, String)> {
    let mut lines = block.text.iter().zip(block.line + 1..);
    while let Some((text, line)) = lines.next() {
        let mut command = text.clone();
        while command.ends_with('\\') {
            command = format!("{}\n{}", command, lines.next().map_or("", |(text, _)| text));
        }
        let fails = |why: String| (line, format!("{text}: {why}"));
        if command.starts_with("herald sub ") {
            // A reader would leave it running in another terminal.
            shell.subscribe(&format!("{} >/dev/null", command.trim_end_matches(" &"))).map_err(fails)?;
            continue;
        }
        match start(shell, &command).map_err(fails)? {
            None | Some(0) => shell.rest(),
            Some(status) => return Err(fails(format!("exit status {status}: {}", shell.rest().join("\n")))),
        };
    }
    Ok(())
}

/// Runs a block of commands and compares their output with the block.
fn console(shell: &mut Shell, block: &Block) -> Result<(), (usize, String)> {
    let mut talking = false;
    for (text, line) in block.text.iter().zip(block.line + 1..) {
        let fails = |why: String| (line, format!("{text}: {why}"));
        if let Some(command) = text.strip_prefix("$ ") {
            if std::mem::take(&mut talking) {
                shell.hang_up().map_err(fails)?;
            }
            if command.starts_with("telnet ") || command.starts_with("nc ") {
                shell.converse(command);
                talking = true;
            } else if command.starts_with("herald sub ") && command.ends_with(" &") {
                shell.subscribe(command.trim_end_matches(" &")).map_err(fails)?;
            } else {
                start(shell, command).map_err(fails)?;
            }
        } else if talking && TYPED.contains(&text.split(' ').next().unwrap()) {
            shell.say(text);
        } else if text != "…" && !text.is_empty() {
            shell.hear(|line| is_as_written(line, text)).map_err(fails)?;
        }
    }
    if talking {
        shell.hang_up().map_err(|why| (block.line, why))?;
    }
    let rest = shell.rest();
    if rest.is_empty() || block.text.iter().any(|line| line == "…") {
        return Ok(());
    }
    Err((block.line, format!("printed, but not in the document: {}", rest.join("\n"))))
}
