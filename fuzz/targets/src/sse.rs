//! The parser of event streams.
//!
//! The first byte chooses the limits; a [`MARK`](crate::MARK) in the rest is where one piece ends and the next begins.

use pipeline_sse::{Oversized, Parser, ParserLimits, SseEvent, SseItem};

/// The id that every stream resumes after.
const START: &str = "start";

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((limits, rest)) = data.split_first() else { return };
    let limits = ParserLimits {
        max_line_bytes: ParserLimits::MIN_LINE_BYTES + usize::from(limits & 0x0f),
        max_event_bytes: 1 + usize::from(limits >> 4) * 8,
    };
    let pieces = crate::pieces(rest);
    let whole = pieces.concat();

    let unlimited = read([&whole[..]], ParserLimits::default());
    assert_eq!(unlimited, standard(&whole), "as the standard has it");
    assert_eq!(read(pieces.iter().copied(), ParserLimits::default()), unlimited, "in the pieces of the input");

    let limited = read([&whole[..]], limits);
    assert_eq!(read(pieces.iter().copied(), limits), limited, "with limits, in the pieces of the input");
    assert_eq!(read(whole.chunks(1), limits), limited, "with limits, byte by byte");
    within(&limited, &unlimited, limits);
    restarted(&pieces);
}

/// Everything that a stream leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    items: Vec<SseItem>,
    last_event_id: String,
    retry_ms: Option<u64>,
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: ParserLimits) -> Read {
    let mut parser = Parser::new(limits, START);
    let (mut items, mut retry_ms) = (Vec::new(), None);
    for piece in pieces {
        take(&mut parser, piece, &mut items);
        retry_ms = parser.take_retry_ms().or(retry_ms);
    }
    Read { items, last_event_id: parser.last_event_id().to_string(), retry_ms }
}

fn take(parser: &mut Parser, mut piece: &[u8], items: &mut Vec<SseItem>) {
    while let Some(item) = parser.next(&mut piece) {
        items.push(item);
    }
    assert!(piece.is_empty(), "all of it is read");
}

/// Checks that limits only take out what exceeds them: all else is the same as without.
fn within(limited: &Read, unlimited: &Read, limits: ParserLimits) {
    let mut all = unlimited.items.iter();
    let mut over = 0;
    for item in &limited.items {
        match item {
            SseItem::Event(event) => {
                assert!(event.data.len() <= 3 * limits.max_event_bytes, "U+FFFD may stand for a byte");
                // Ids and types that were too long are missing; the data is not.
                let same = |other: &SseItem| matches!(other, SseItem::Event(other) if other.data == event.data);
                assert!(all.any(same), "{event:?} is in the stream, and in that place");
            }
            SseItem::Oversize(report) => {
                over += usize::from(report.what != Oversized::IgnoredLine);
                let limit = match report.what {
                    Oversized::Event => limits.max_event_bytes,
                    Oversized::Line | Oversized::IgnoredLine => limits.max_line_bytes,
                };
                assert_eq!(report.limit, limit);
            }
            // An id may be missing with the line that was too long.
            SseItem::Id(_) => {}
        }
    }
    let events = |read: &Read| read.items.iter().filter(|item| matches!(item, SseItem::Event(_))).count();
    let missing = events(unlimited) - events(limited);
    assert!(missing <= over, "{missing} events are missing and {over} were reported");
    if over == 0 {
        assert_eq!(limited.last_event_id, unlimited.last_event_id);
    }
}

/// Each piece as a stream of its own: what was not complete is gone with its id, and the last id stays.
fn restarted(pieces: &[&[u8]]) {
    let mut parser = Parser::new(ParserLimits::default(), START);
    let mut last = START.to_owned();
    for piece in pieces {
        let mut items = Vec::new();
        take(&mut parser, piece, &mut items);
        for item in &mut items {
            // The number of its stream is all that tells them apart.
            if let SseItem::Event(event) = item {
                event.stream = 0;
            }
        }
        let fresh = {
            let mut fresh = Parser::new(ParserLimits::default(), &last);
            let mut items = Vec::new();
            take(&mut fresh, piece, &mut items);
            (items, fresh.last_event_id().to_string())
        };
        assert_eq!((items, parser.last_event_id().to_string()), fresh, "a stream that was resumed is as a new one");
        parser.restart();
        assert_eq!(**parser.last_event_id(), *fresh.1, "a restart keeps the last event id");
        last = fresh.1;
    }
}

/// The standard's algorithm, word for word, with no thought for speed or limits: decode, then lines, then fields.
fn standard(stream: &[u8]) -> Read {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What has no end is no line.
    lines.pop();
    let (mut data, mut event_type, mut id) = (String::new(), String::new(), START.to_owned());
    let mut read = Read { items: Vec::new(), last_event_id: id.clone(), retry_ms: None };
    let mut has_own_id = false;
    for line in lines {
        if line.is_empty() {
            if let Some(data) = data.strip_suffix('\n') {
                let event_type = if event_type.is_empty() { SseEvent::DEFAULT_TYPE } else { &event_type };
                read.items.push(SseItem::Event(SseEvent {
                    event_type: event_type.to_owned().into(),
                    data: data.to_owned(),
                    last_event_id: id.as_str().into(),
                    has_own_id,
                    stream: 0,
                }));
            } else if read.last_event_id != id {
                read.items.push(SseItem::Id(id.as_str().into()));
            }
            read.last_event_id.clone_from(&id);
            has_own_id = false;
            data.clear();
            event_type.clear();
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => data = data + value + "\n",
            "event" => value.clone_into(&mut event_type),
            "id" if !value.contains('\0') => {
                value.clone_into(&mut id);
                has_own_id = true;
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                read.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }
    read
}
