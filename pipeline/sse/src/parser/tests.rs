use super::*;
use proptest::prelude::*;

/// The complete result of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Read {
    items: Vec<SseItem>,
    last_event_id: String,
    retry_ms: Option<u64>,
}

fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limits: ParserLimits) -> Read {
    let mut parser = Parser::new(limits, "start");
    let mut items = Vec::new();
    let mut retry_ms = None;
    for mut chunk in chunks {
        while let Some(item) = parser.next(&mut chunk) {
            items.push(item);
        }
        assert!(chunk.is_empty(), "left over: {chunk:?}");
        assert!(parser.line.len() <= limits.max_line_bytes.max(ParserLimits::MIN_LINE_BYTES));
        assert!(parser.data.len() <= limits.max_event_bytes);
        retry_ms = parser.take_retry_ms().or(retry_ms);
    }
    Read { items, last_event_id: parser.last_event_id().to_string(), retry_ms }
}

fn whole(stream: &[u8]) -> Read {
    read([stream], ParserLimits::default())
}

/// The standard's algorithm, literally and without regard to speed or limits: decode, split into lines, split into fields.
fn reference(stream: &[u8]) -> Read {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop(); // an unterminated line does not count
    let (mut data, mut event_type, mut id) = (String::new(), String::new(), "start".to_owned());
    let mut read = Read { last_event_id: id.clone(), ..Read::default() };
    let mut has_own_id = false;
    for line in lines {
        if line.is_empty() {
            if let Some(data) = data.strip_suffix('\n') {
                let event_type = if event_type.is_empty() { "message" } else { &event_type };
                read.items.push(whole_event(event_type, data, &id, has_own_id));
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
            "event" => event_type = value.to_owned(),
            "id" if !value.contains('\0') => {
                id = value.to_owned();
                has_own_id = true;
            }
            "retry" if !value.is_empty() && value.chars().all(|c| c.is_ascii_digit()) => {
                read.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }
    read
}

fn event(event_type: &str, data: &str, id: &str) -> SseItem {
    whole_event(event_type, data, id, false)
}

/// An event with an id of its own.
fn own(event_type: &str, data: &str, id: &str) -> SseItem {
    whole_event(event_type, data, id, true)
}

fn whole_event(event_type: &str, data: &str, id: &str, has_own_id: bool) -> SseItem {
    let event_type = event_type.to_owned().into();
    SseItem::Event(SseEvent { event_type, data: data.to_owned(), last_event_id: id.into(), has_own_id, stream: 0 })
}

fn oversize(what: Oversized, limit: usize, last_event_id: &str) -> SseItem {
    SseItem::Oversize(Oversize { what, limit, last_event_id: last_event_id.into() })
}

/// Streams of every kind. The first block is the standard's own examples.
const CORPUS: &[&[u8]] = &[
    b"data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\ndata: third\n\n",
    b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
    b"data: YHOO\ndata: +2\ndata: 10\n\n",
    b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
    b"data\n\ndata\ndata\n\ndata:\n",
    b"data:test\n\ndata: test\n\n",
    b"",
    b"\n\n\n",
    b"\r\n\r\n",
    b"\xEF\xBB\xBFdata: bom\n\n",
    b"\xEF\xBB\xBF\xEF\xBB\xBFdata: two boms\n\ndata: next\n\n",
    b"\xEF\xBB",
    b"\xEF\xBBdata: half a bom\n\ndata: next\n\n",
    b"\xEF\n\xBB\xBFdata: x\n\n",
    b"\n\xEF\xBB\xBFdata: late bom\n\ndata: \xEF\xBB\xBFx\n\n",
    b"\xEF\xBB\xBF",
    b"\xEF\xBB\xBF\r\ndata: x\r\n\r\n",
    b"data: cr\r\rdata: two\rdata: lines\r\r",
    b"data: crlf\r\n\r\ndata: more\r\ndata: lines\r\n\r\n",
    b"data: mixed\r\n\ndata: a\n\rdata: b\r\r\ndata: c\n\n",
    b"data: x\n\r\n\rdata: y\r\n\r\r\n\n",
    b"id: 7\n\ndata: after an id alone\n\n",
    b"id: 7\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid:\ndata: d\n\n",
    b"id: 1\ndata: a\n\nid: 2\x003\ndata: nul\n\nid: \xFF\ndata: bad\n\n",
    b"id: 1\nid: 2\ndata: twice\n\nid: 9\ndata: never finished\n",
    b"event: a\nevent\ndata: reset\n\nevent: lost\n\ndata: plain\n\n",
    b"retry: 1000\nretry: x\nretry\nretry: 1 \nretry: -1\nretry:+5\nretry: 1.5\n",
    b"retry: 00250\ndata: zero\n\n",
    b"retry: 99999999999999999999999999\n",
    "retry: ٣\n".as_bytes(),
    b"retry:  5\n",
    b"Data: case\n data: blank\ndata : blank\ndatas: more\ndat: less\n\n",
    b":\n:comment\n: data: no\ndata:: colon\n\n",
    b"data:a:b: c\nfoo\nfoo: bar\nverylongfieldname: 1\nidx: 3\n\n",
    b"data: \xFF\xFE\xC3\n\ndata: \xE3\x81\n\ndata: \xF0\x9F\x98\ndata: \x80\n\n",
    b"data: \xC3\r\ndata: \xA9\r\n\r\nd\xC3ata: x\n\nevent: \xC0\xAF\ndata: \xED\xA0\x80\n\n",
    "data: 日本語 🦀\nid: 日\nevent: é\n\n".as_bytes(),
    b"data: no end",
    b"data: no blank line\n",
    b"data: no blank line\r",
    b"data: nul \0 is data\n\n",
    b"data:\ndata: \ndata:  \n\n",
];

#[test]
fn the_standards_examples_give_its_results() {
    let id = "start";
    let cases: &[(usize, Vec<SseItem>)] = &[
        (
            0,
            vec![
                event("message", "This is the first message.", id),
                event("message", "This is the second message, it\nhas two lines.", id),
                event("message", "third", id),
            ],
        ),
        (1, vec![event("add", "73857293", id), event("remove", "2153", id), event("add", "113411", id)]),
        (2, vec![event("message", "YHOO\n+2\n10", id)]),
        (
            3,
            vec![
                own("message", "first event", "1"),
                own("message", "second event", ""),
                event("message", " third event", ""),
            ],
        ),
        (4, vec![event("message", "", id), event("message", "\n", id)]),
        (5, vec![event("message", "test", id), event("message", "test", id)]),
    ];
    for (stream, items) in cases {
        assert_eq!(whole(CORPUS[*stream]).items, *items);
    }
}

#[test]
fn every_stream_reads_as_in_the_reference_however_it_is_split() {
    for stream in CORPUS {
        let expected = reference(stream);
        let shown = String::from_utf8_lossy(stream);
        assert_eq!(whole(stream), expected, "{shown:?}");
        assert_eq!(read(stream.chunks(1), ParserLimits::default()), expected, "{shown:?} byte by byte");
        for split in 0..=stream.len() {
            let (one, two) = stream.split_at(split);
            assert_eq!(read([one, two], ParserLimits::default()), expected, "{shown:?} split at {split}");
        }
    }
}

#[test]
fn an_event_is_dispatched_on_the_cr_of_its_blank_line() {
    let mut parser = Parser::new(ParserLimits::default(), "");
    assert_eq!(parser.next(&mut &b"data: x\r\n\r"[..]), Some(event("message", "x", "")));
    // The LF that follows belongs to that line: it is no blank line, and does not begin one.
    assert_eq!(parser.next(&mut &b"\ndata: y\r\r"[..]), Some(event("message", "y", "")));
}

#[test]
fn input_after_the_item_is_left_for_the_next_call() {
    let mut parser = Parser::new(ParserLimits::default(), "");
    let mut input = &b"data: 1\n\ndata: 2\n\n"[..];
    assert_eq!(parser.next(&mut input), Some(event("message", "1", "")));
    assert_eq!(input, b"data: 2\n\n");
}

#[test]
fn a_restart_discards_the_incomplete_event_and_keeps_the_id() {
    let mut parser = Parser::new(ParserLimits::default(), "");
    let mut input = &b"id: 1\ndata: x\n\nid: 2\ndata: lost\nda"[..];
    assert!(parser.next(&mut input).is_some());
    assert_eq!(parser.next(&mut input), None);
    parser.restart();
    // A new stream may begin with a byte order mark too.
    let got = parser.next(&mut &b"\xEF\xBB\xBFdata: y\n\n"[..]);
    let SseItem::Event(expected) = event("message", "y", "1") else { unreachable!() };
    assert_eq!(got, Some(SseItem::Event(SseEvent { stream: 1, ..expected })));
}

const SMALL: ParserLimits = ParserLimits { max_line_bytes: 64, max_event_bytes: 100 };

fn line(start: &str, bytes: usize) -> Vec<u8> {
    let mut line = start.as_bytes().to_vec();
    line.resize(bytes, b'x');
    line.push(b'\n');
    line
}

/// Streams at and over the limits of `SMALL`, with their items.
fn bounded_corpus() -> Vec<(Vec<u8>, Vec<SseItem>)> {
    let long_line = || oversize(Oversized::Line, 64, "start");
    let ok = |id: &str| event("message", "ok", id);
    let id = |id: &str| SseItem::Id(id.into());
    vec![
        ([line("data:", 64), b"\n".to_vec()].concat(), vec![event("message", &"x".repeat(59), "start")]),
        ([line("data:", 65), b"\ndata: ok\n\n".to_vec()].concat(), vec![long_line(), ok("start")]),
        // The rest of the event is skipped, and its id counts, whether before or after the long line.
        (
            [b"id: 1\ndata: a\n".to_vec(), line("data:", 500), b"data: b\n\ndata: ok\n\n".to_vec()].concat(),
            vec![long_line(), id("1"), ok("1")],
        ),
        (
            [line("data", 70), b"id: 1\n\ndata: ok\n\n".to_vec()].concat(),
            vec![oversize(Oversized::IgnoredLine, 64, "start"), id("1"), ok("1")],
        ),
        (
            [line("event:", 70), b"data: b\nid: 2\n\ndata: ok\n\n".to_vec()].concat(),
            vec![long_line(), id("2"), ok("2")],
        ),
        ([line("id:", 70), b"data: b\n\ndata: ok\n\n".to_vec()].concat(), vec![long_line(), ok("start")]),
        // One report per event, however many of its lines are too long.
        (
            [line("data:", 70), line("data:", 80), line("event:", 90), b"\ndata: ok\n\n".to_vec()].concat(),
            vec![long_line(), ok("start")],
        ),
        // Long comments and unknown fields skip no event.
        (
            [b"data: ok\n".to_vec(), line(":", 900), line("unknown: ", 900), line("retry:", 900), b"\n".to_vec()]
                .concat(),
            vec![
                oversize(Oversized::IgnoredLine, 64, "start"),
                oversize(Oversized::IgnoredLine, 64, "start"),
                oversize(Oversized::IgnoredLine, 64, "start"),
                ok("start"),
            ],
        ),
        // 49 and 50 bytes with a line feed between them are 100; one more is too many.
        (
            [line("data:", 54), line("data:", 55), b"\n".to_vec()].concat(),
            vec![event("message", &format!("{}\n{}", "x".repeat(49), "x".repeat(50)), "start")],
        ),
        (
            [line("data:", 55), line("data:", 55), line("data:", 55), b"id: 3\n\ndata: ok\n\n".to_vec()].concat(),
            vec![oversize(Oversized::Event, 100, "start"), id("3"), ok("3")],
        ),
        // An endless line is reported once.
        (vec![b'd'; 4000], vec![oversize(Oversized::IgnoredLine, 64, "start")]),
        ([b"data:".to_vec(), vec![b'x'; 4000]].concat(), vec![long_line()]),
        // Bare lines without data.
        (b"data\n".repeat(300), vec![oversize(Oversized::Event, 100, "start")]),
    ]
}

#[test]
fn items_over_a_limit_are_reported_and_skipped_however_they_are_split() {
    for (stream, expected) in bounded_corpus() {
        let shown = String::from_utf8_lossy(&stream);
        assert_eq!(read([&stream[..]], SMALL).items, expected, "{shown:?}");
        assert_eq!(read(stream.chunks(1), SMALL).items, expected, "{shown:?} byte by byte");
        for split in 0..=stream.len() {
            let (one, two) = stream.split_at(split);
            assert_eq!(read([one, two], SMALL).items, expected, "{shown:?} split at {split}");
        }
    }
}

#[test]
fn the_memory_of_a_long_line_is_freed() {
    let mut parser = Parser::new(ParserLimits::default(), "");
    let long = [b"data:".to_vec(), vec![b'x'; 1_000_000]].concat();
    assert_eq!(parser.next(&mut &long[..]), None);
    assert!(parser.next(&mut &b"\n\n"[..]).is_some());
    assert!(parser.line.capacity() <= KEEP_LINE_CAPACITY);
    assert_eq!(parser.data.capacity(), 0);
}

/// Bytes that make fields, ends of lines and broken UTF-8 likely.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"data",
        b"data:",
        b"data: ",
        b"event:",
        b"event: a",
        b"id",
        b"id:",
        b"id: 1",
        b"id: 2",
        b"retry: 12",
        b"retry:",
        b":",
        b" ",
        b"\n",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\r",
        b"x",
        b"\0",
        b"\xEF\xBB\xBF",
        b"\xEF",
        b"\xBB",
        b"\xBF",
        b"\xE3\x81\x82",
        b"\xE3\x81",
        b"\xFF",
        b"\xF0\x9F",
        b"12345678901234567890123456789012345",
    ];
    prop_oneof![
        8 => prop::collection::vec(prop::sample::select(words), 0..40).prop_map(|words| words.concat()),
        1 => prop::collection::vec(any::<u8>(), 0..100),
    ]
}

fn split(stream: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.iter_mut().for_each(|cut| *cut %= stream.len() + 1);
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|range| &stream[range[0]..range[1]]).collect()
}

proptest! {
    #[test]
    fn any_bytes_in_any_chunks_read_as_in_the_reference(
        stream in pieces(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let expected = reference(&stream);
        prop_assert_eq!(&read(split(&stream, cuts), ParserLimits::default()), &expected);
        prop_assert_eq!(&read(stream.chunks(1), ParserLimits::default()), &expected);
    }

    #[test]
    fn bounds_do_not_depend_on_the_chunks(
        stream in pieces(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        max_event_bytes in 0_usize..80,
    ) {
        let limits = ParserLimits { max_event_bytes, ..SMALL };
        let expected = read([&stream[..]], limits);
        prop_assert_eq!(&read(split(&stream, cuts), limits), &expected);
        prop_assert_eq!(&read(stream.chunks(1), limits), &expected);
    }
}
