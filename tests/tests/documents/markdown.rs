//! The subset of Markdown that the documents use: headings, fenced blocks, links.

use std::collections::BTreeMap;
use std::path::Path;

/// A page.
pub(crate) struct Document {
    /// Its path in the repository.
    pub(crate) path: String,
    lines: Vec<Line>,
}

/// A line of a page with its role.
struct Line {
    text: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Prose,
    /// The opening line of a block.
    Opening,
    /// A line of a block, or its end.
    Block,
    /// A line of a comment whose commands run before the next block, invisible to readers.
    Hidden,
}

/// The text of a fenced block, or of a comment `<!-- first: … -->`.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// `sh`, `console`, `toml` …; the first word after the backticks.
    pub(crate) kind: String,
    /// The second word: a file name, or `by=` with the file that checks the block instead.
    pub(crate) file: Option<String>,
    /// The number of the opening line.
    pub(crate) line: usize,
    pub(crate) text: Vec<String>,
}

impl Block {
    /// The file that checks the block, if it is not run.
    pub(crate) fn by(&self) -> Option<&str> {
        self.file.as_deref()?.strip_prefix("by=")
    }
}

/// The blocks under one heading.
pub(crate) struct Section {
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
}

impl Document {
    pub(crate) fn read(root: &Path, path: &str) -> Self {
        Self::parse(path, &std::fs::read_to_string(root.join(path)).unwrap())
    }

    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut lines = Vec::new();
        let mut within: Option<Kind> = None;
        for text in text.lines() {
            let kind = match within {
                None if text.starts_with("```") => {
                    within = Some(Kind::Block);
                    Kind::Opening
                }
                None if text.starts_with("<!-- first:") => {
                    within = Some(Kind::Hidden);
                    Kind::Opening
                }
                None => Kind::Prose,
                Some(kind) => {
                    if text == if kind == Kind::Block { "```" } else { "-->" } {
                        within = None;
                    }
                    kind
                }
            };
            lines.push(Line { text: text.to_owned(), kind });
        }
        assert!(within.is_none(), "{path}: the last block is not closed");
        Self { path: path.to_owned(), lines }
    }

    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.lines.iter().enumerate();
        numbered.filter(|(_, line)| line.kind == Kind::Prose).map(|(at, line)| (at + 1, line.text.as_str()))
    }

    /// The blocks, by the headings above them.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        let mut blocks: Vec<Block> = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            match line.kind {
                Kind::Prose if line.text.starts_with('#') => {
                    sections.push(Section { path: self.path.clone(), blocks: std::mem::take(&mut blocks) });
                }
                Kind::Prose => {}
                Kind::Opening => {
                    let words = line.text.trim_start_matches('`');
                    let hidden = words.starts_with("<!--");
                    let mut words = words.split_whitespace().map(str::to_owned);
                    let kind = if hidden { Some("sh".to_owned()) } else { words.next() }.unwrap_or_default();
                    let file = if hidden { None } else { words.next() };
                    blocks.push(Block { kind, file, line: at + 1, text: Vec::new() });
                }
                Kind::Block | Kind::Hidden => {
                    if !["```", "-->"].contains(&line.text.as_str()) {
                        blocks.last_mut().unwrap().text.push(line.text.clone());
                    }
                }
            }
        }
        sections.push(Section { path: self.path.clone(), blocks });
        sections.retain(|section| !section.blocks.is_empty());
        sections
    }

    /// Commands that no test would run, each with its line.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (at, text) in self.prose() {
            if text.starts_with("    ") && !text.trim_start().starts_with(['-', '|']) {
                mistakes.push(format!("{at}: an indented block: {text}"));
            }
        }
        let sections = self.sections();
        for block in sections.iter().flat_map(|section| &section.blocks) {
            let known = ["sh", "console", "toml", "python", "js", "rust", "text", "transcript"];
            if !known.contains(&block.kind.as_str()) {
                mistakes.push(format!("{}: a block of an unknown kind: {}", block.line, block.kind));
            }
            if block.kind == "text" && block.text.iter().any(|line| line.starts_with("$ ")) {
                mistakes.push(format!("{}: a text with commands", block.line));
            }
        }
        mistakes
    }

    /// The targets of links, each with its line.
    pub(crate) fn links(&self) -> impl Iterator<Item = (usize, String)> {
        self.prose().flat_map(|(at, text)| {
            // Ignores text in backticks.
            let visible: String = text.split('`').step_by(2).collect::<Vec<_>>().join("`");
            let mut links: Vec<String> = visible
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split_once(')'))
                .map(|(target, _)| target.to_owned())
                .collect();
            if let Some((_, target)) = visible.split_once("]: ").filter(|_| visible.starts_with('[')) {
                links.push(target.trim().to_owned());
            }
            links.into_iter().map(move |target| (at, target))
        })
    }

    /// The anchors of the headings, as generated by GitHub.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let headings = self.prose().filter(|(_, text)| text.starts_with('#'));
        let mut anchors = Vec::new();
        for (_, heading) in headings {
            let anchor: String = heading
                .trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect();
            let seen = times.entry(anchor.clone()).or_default();
            anchors.push(if *seen == 0 { anchor } else { format!("{anchor}-{seen}") });
            *seen += 1;
        }
        anchors
    }
}
