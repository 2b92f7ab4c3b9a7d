//! The SSE client over real sockets, against a server that misbehaves in every known way.
#![expect(clippy::unwrap_used, reason = "a failed precondition fails the test")]

mod sse_server;

use std::sync::atomic::Ordering;
use std::time::Duration;

use pipeline_sse::{
    OnClientError, Oversized, ParserLimits, ProxyChoice, SseClient, SseConfig, SseConfigError, SseItem, SseState,
    Stopped, WaitReason,
};
use sse_server::{Server, Step, chunks, head, held, status, stream};
use tokio::time::timeout;

/// The longest wait for an expected outcome. It only affects how soon a failure is reported.
const HANG: Duration = Duration::from_secs(60);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Short waits, and no idle limit unless a test sets one.
fn config(server: &Server) -> SseConfig {
    SseConfig {
        idle_timeout: None,
        retry: ms(1),
        retry_floor: ms(1),
        retry_ceiling: ms(20),
        max_backoff: ms(40),
        max_retry_after: ms(30),
        // Never, unless a test sets it.
        healthy_after: Duration::from_secs(3600),
        proxy: ProxyChoice::Direct,
        on_client_error: OnClientError::Stop,
        ..SseConfig::new(server.url())
    }
}

fn client(server: &Server) -> SseClient {
    SseClient::new(config(server)).unwrap()
}

/// The next item other than an id.
async fn item(client: &mut SseClient) -> SseItem {
    loop {
        match timeout(HANG, client.next()).await.expect("an item in time").expect("not stopped") {
            SseItem::Id(_) => {}
            item => return item,
        }
    }
}

/// The data of the next `count` events.
async fn events(client: &mut SseClient, count: usize) -> Vec<String> {
    let mut data = Vec::new();
    while data.len() < count {
        match item(client).await {
            SseItem::Event(event) => data.push(event.data),
            other => panic!("{other:?}"),
        }
    }
    data
}

async fn stopped(client: &mut SseClient) -> Stopped {
    let stopped = timeout(HANG, client.next()).await.expect("a stop in time").expect_err("a stop");
    // Later pulls return the same.
    assert_eq!(client.next().await, Err(stopped.clone()));
    assert_eq!(client.next_batch(5).await, Err(stopped.clone()));
    assert!(matches!(client.state(), SseState::Stopped(_)), "{:?}", client.state());
    stopped
}

/// Pulls the client until it starts to wait: `(failures, delay, reason)`. Every other poll drops the pull, which also tests
/// cancellation.
async fn waits(client: &mut SseClient) -> (u32, Duration, WaitReason) {
    let mut states = client.watch();
    states.mark_unchanged();
    let waits = async {
        loop {
            tokio::select! {
                biased;
                item = client.next() => assert!(matches!(item, Ok(SseItem::Id(_))), "{item:?}"),
                changed = states.changed() => changed.unwrap(),
            }
            if let SseState::Waiting { delay, failures, reason, .. } = states.borrow_and_update().clone() {
                return (failures, delay, reason);
            }
        }
    };
    timeout(HANG, waits).await.expect("a wait in time")
}

#[tokio::test]
async fn a_close_delimited_and_a_chunked_stream_are_read_one_after_the_other() {
    let server = Server::start(vec![
        stream("data: 1\n\ndata: 2\n\n"),
        chunks(&[b"da", b"ta: 3\n", b"\ndata: 4\r", b"\n\r", b"\n"]),
        held("data: 5\n\n"),
    ])
    .await;
    assert_eq!(events(&mut client(&server), 5).await, ["1", "2", "3", "4", "5"]);
    assert_eq!(server.header("accept"), vec![Some("text/event-stream".to_owned()); 3]);
    assert_eq!(server.header("accept-encoding"), vec![Some("identity".to_owned()); 3]);
    assert_eq!(server.header("cache-control"), vec![Some("no-store".to_owned()); 3]);
    assert_eq!(server.header("last-event-id"), [None, None, None]);
}

#[tokio::test]
async fn an_event_comes_before_the_byte_after_its_cr() {
    let server = Server::start(vec![held("data: 1\r\r")]).await;
    assert_eq!(events(&mut client(&server), 1).await, ["1"]);
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_in_pieces_on_each_connection() {
    let bom = |data: &'static [u8]| chunks(&[b"\xEF", b"\xBB", b"\xBF", data]);
    let server = Server::start(vec![bom(b"data: 1\n\n"), bom(b"data: 2\n\n"), held("")]).await;
    assert_eq!(events(&mut client(&server), 2).await, ["1", "2"]);
}

#[tokio::test]
async fn a_partial_event_is_discarded_and_requested_again() {
    let server = Server::start(vec![
        // In the middle of an event, of a line, and of a chunk.
        stream("id: 1\ndata: a\n\nid: 2\ndata: lost\n"),
        stream("id: 2\ndata: b\n\nid: 3\ndata: lo"),
        chunks(&[b"id: 3\ndata: c\n\nid: 4\n", b"data: lost\n"]),
        stream("data: no id of its own\n\n"),
        held("id\ndata: reset\n\n"),
    ])
    .await;
    let mut client = client(&server);
    let mut got = Vec::new();
    while got.len() < 5 {
        if let SseItem::Event(event) = item(&mut client).await {
            got.push((event.data, event.last_event_id.to_string()));
        }
    }
    let expected = [("a", "1"), ("b", "2"), ("c", "3"), ("no id of its own", "3"), ("reset", "")];
    assert_eq!(got, expected.map(|(data, id)| (data.to_owned(), id.to_owned())));
    let asked: Vec<_> = server.header("last-event-id").into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(asked, ["", "1", "2", "3", "3"]);
}

#[tokio::test]
async fn an_orderly_end_and_a_broken_stream_have_different_reasons() {
    let server = Server::start(vec![stream(""), chunks(&[b": hello\n"]), held("")]).await;
    let mut client = client(&server);
    assert_eq!(waits(&mut client).await.2, WaitReason::Ended);
    let reason = waits(&mut client).await.2;
    assert!(matches!(reason, WaitReason::Broken(_)), "{reason:?}");
}

#[tokio::test]
async fn a_configured_id_is_sent_as_utf8_and_survives_failures() {
    let server = Server::start(vec![status("500 Oops", &[]), stream(""), held("id: ü\ndata: x\n\n")]).await;
    let mut config = config(&server);
    config.last_event_id = "日本語".into();
    let mut client = SseClient::new(config).unwrap();
    events(&mut client, 1).await;
    assert_eq!(server.header("last-event-id"), vec![Some("日本語".to_owned()); 3]);
    assert_eq!(client.last_event_id(), "ü");
}

#[tokio::test]
async fn an_id_without_an_event_counts_and_an_unsendable_one_leaves_the_one_before() {
    let server = Server::start(vec![
        stream("id: 1\ndata: a\n\nid: 2\n\n"),
        stream("id: 3\u{1}\ndata: b\n\n"),
        held("data: c\n\n"),
    ])
    .await;
    assert_eq!(events(&mut client(&server), 3).await, ["a", "b", "c"]);
    let asked = server.header("last-event-id");
    assert_eq!(asked, [None, Some("2".into()), Some("2".into())]);
}

#[tokio::test]
async fn a_remote_feed_is_read_through_the_proxy_and_a_local_one_directly() {
    let proxy = Server::start(vec![held("data: by proxy\n\n")]).await;
    let feed = Server::start(vec![held("data: directly\n\n")]).await;
    let through = ProxyChoice::Url(format!("http://user:pa55@{}", proxy.addr));
    let far = SseConfig { proxy: through.clone(), url: "http://feed.invalid/a".into(), ..config(&feed) };
    assert_eq!(events(&mut SseClient::new(far).unwrap(), 1).await, ["by proxy"]);
    assert_eq!(proxy.request_lines(), ["GET http://feed.invalid/a HTTP/1.1"]);
    assert_eq!(proxy.header("proxy-authorization"), [Some("Basic dXNlcjpwYTU1".to_owned())]);
    let near = SseConfig { proxy: through, ..config(&feed) };
    assert_eq!(events(&mut SseClient::new(near).unwrap(), 1).await, ["directly"]);
}

#[tokio::test]
async fn a_204_stops() {
    let server = Server::start(vec![stream("data: 1\n\n"), status("204 No Content", &[])]).await;
    let mut client = client(&server);
    events(&mut client, 1).await;
    let stopped = stopped(&mut client).await;
    assert_eq!(stopped, Stopped::NoContent { url: server.url() });
    assert_eq!(server.request_lines().len(), 2);
}

#[tokio::test]
async fn a_refusal_stops_and_names_url_and_status_without_credentials() {
    for code in [401, 403, 404, 410] {
        let server = Server::start(vec![status(&format!("{code} No"), &[])]).await;
        let mut config = config(&server);
        config.url = format!("http://user:pa55@{}/feed?token=s3cret", server.addr);
        config.headers = vec![("X-Key".into(), "k3y".into())];
        let debug = format!("{config:?}");
        let mut client = SseClient::new(config).unwrap();
        let stopped = stopped(&mut client).await;
        assert_eq!(stopped, Stopped::Status { url: server.url(), status: code });
        for secret in ["pa55", "s3cret", "k3y"] {
            assert!(!format!("{stopped} {stopped:?} {debug}").contains(secret));
        }
        // The credentials were sent, though.
        assert_eq!(server.request_lines(), ["GET /feed?token=s3cret HTTP/1.1"]);
        assert_eq!(server.header("authorization"), [Some("Basic dXNlcjpwYTU1".to_owned())]);
        assert_eq!(server.header("x-key"), [Some("k3y".to_owned())]);
    }
}

#[tokio::test]
async fn another_content_type_stops() {
    let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\ndata: 1\n\n".to_vec();
    let server = Server::start(vec![vec![Step::Send(page)]]).await;
    let expected = Stopped::ContentType { url: server.url(), content_type: "text/html".into() };
    assert_eq!(stopped(&mut client(&server)).await, expected);
}

#[tokio::test]
async fn a_refusal_and_a_page_are_retried_with_growing_waits_by_default() {
    assert_eq!(SseConfig::new("http://feed/").on_client_error, OnClientError::Retry);
    let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>".to_vec();
    let server =
        Server::start(vec![status("404 No", &[]), vec![Step::Send(page)], status("401 No", &[]), held("data: 1\n\n")])
            .await;
    let config = SseConfig { on_client_error: OnClientError::Retry, ..config(&server) };
    let mut client = SseClient::new(config).unwrap();
    for failures in 1..=3 {
        let (count, _, reason) = waits(&mut client).await;
        assert_eq!(count, failures);
        assert!(matches!(reason, WaitReason::Refused(_)), "{reason:?}");
    }
    assert_eq!(events(&mut client, 1).await, ["1"]);
}

#[tokio::test]
async fn after_a_stream_with_data_or_a_timed_out_silence_waits_stay_short() {
    let server = Server::start(vec![
        stream(""),
        stream(""),
        stream(": a comment\n"),
        chunks(&[b": another\n"]),
        stream(": and another\n\n"),
        stream(""),
        held(""),
        vec![Step::Hold],
        held(": hello\n\n"),
    ])
    .await;
    let config = SseConfig { idle_timeout: Some(ms(500)), ..config(&server) };
    let mut client = SseClient::new(config).unwrap();
    let mut failures = Vec::new();
    for _ in 0..9 {
        failures.push(waits(&mut client).await.0);
    }
    assert_eq!(failures, [1, 2, 1, 1, 1, 2, 1, 1, 1]);
}

#[tokio::test]
async fn server_errors_are_retried_with_growing_waits() {
    let server = Server::start(vec![
        status("500 Oops", &[]),
        status("503 Busy", &[]),
        status("408 Slow", &[]),
        status("429 Many", &[]),
        held("data: 1\n\n"),
    ])
    .await;
    let mut client = client(&server);
    for (failures, status) in [(1, 500), (2, 503), (3, 408), (4, 429)] {
        let (count, delay, reason) = waits(&mut client).await;
        assert_eq!(count, failures);
        assert!(delay >= ms(1 << (failures - 1)) && delay <= ms(1 << failures), "{delay:?}");
        assert_eq!(reason, WaitReason::Status { status, retry_after: None });
    }
    assert_eq!(events(&mut client, 1).await, ["1"]);
}

#[tokio::test]
async fn retry_after_is_honoured_in_seconds_and_as_a_date_up_to_a_maximum() {
    let date = "Retry-After: Sun, 06 Nov 1994 08:50:37 GMT";
    let server = Server::start(vec![
        status("429 Many", &["Retry-After: 3600"]),
        status("503 Busy", &["Date: Sun, 06 Nov 1994 08:49:37 GMT", date]),
        // It is in the past by the local clock.
        status("503 Busy", &[date]),
        status("429 Many", &["Retry-After: 2"]),
    ])
    .await;
    let mut config = config(&server);
    config.max_retry_after = ms(30);
    let mut capped = SseClient::new(config.clone()).unwrap();
    for (status, seconds) in [(429, 3600), (503, 60)] {
        let (_, delay, reason) = waits(&mut capped).await;
        let retry_after = Some(Duration::from_secs(seconds));
        assert_eq!(reason, WaitReason::Status { status, retry_after });
        assert_eq!(delay, ms(30));
    }
    let (_, delay, reason) = waits(&mut capped).await;
    assert_eq!(reason, WaitReason::Status { status: 503, retry_after: Some(Duration::ZERO) });
    assert!(delay <= ms(8), "{delay:?}");
    // Below the maximum it is accepted. (The test does not sit out the wait.)
    config.max_retry_after = Duration::from_secs(3600);
    let mut patient = SseClient::new(config).unwrap();
    assert_eq!(waits(&mut patient).await.1, Duration::from_secs(2));
}

#[tokio::test]
async fn silence_ends_the_connection_before_and_after_the_headers() {
    let server = Server::start(vec![vec![Step::Hold], held(": hello\n\n"), held("data: 1\n\n")]).await;
    let mut config = config(&server);
    config.idle_timeout = Some(ms(200));
    let mut client = SseClient::new(config).unwrap();
    assert_eq!(waits(&mut client).await.2, WaitReason::NoResponse(ms(200)));
    // On a slow machine the second connection may get no further than the first.
    let reason = waits(&mut client).await.2;
    assert!(matches!(reason, WaitReason::Idle(_) | WaitReason::NoResponse(_)), "{reason:?}");
    assert_eq!(events(&mut client, 1).await, ["1"]);
    // The dead connections are closed, not leaked.
    let mut hung_up = server.hung_up.clone();
    timeout(HANG, hung_up.wait_for(|count| *count >= 2)).await.expect("hang-ups in time").unwrap();
}

#[tokio::test]
async fn an_endless_line_is_reported_and_takes_no_memory_and_the_stream_goes_on() {
    let server = Server::start(vec![vec![
        head(),
        Step::Send(b"id: 1\ndata: before\n\ndata:".to_vec()),
        Step::Flood(vec![b'x'; 64 * 1024], 64),
        Step::Send(b"\nid: 2\n\ndata: after\n\n".to_vec()),
        Step::Hold,
    ]])
    .await;
    let mut config = config(&server);
    config.limits = ParserLimits { max_line_bytes: 100_000, max_event_bytes: 100_000 };
    let mut client = SseClient::new(config).unwrap();
    assert_eq!(events(&mut client, 1).await, ["before"]);
    match item(&mut client).await {
        SseItem::Oversize(oversize) => {
            assert_eq!((oversize.what, oversize.limit), (Oversized::Line, 100_000));
            assert_eq!(&*oversize.last_event_id, "1");
        }
        other => panic!("{other:?}"),
    }
    match item(&mut client).await {
        SseItem::Event(event) => assert_eq!((&*event.data, &*event.last_event_id), ("after", "2")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn redirects_are_followed_with_all_headers_up_to_a_limit() {
    let to = |code: &str, path: &str| status(code, &[&format!("Location: {path}")]);
    let server = Server::start(vec![
        to("301 Moved", "/b"),
        to("308 Moved", "/c"),
        stream("id: 1\ndata: 1\n\n"),
        // The next request starts at the configured URL again, and then loops.
        to("307 Moved", "/a"),
    ])
    .await;
    let mut config = config(&server);
    config.max_redirects = 3;
    let mut client = SseClient::new(config).unwrap();
    assert_eq!(events(&mut client, 1).await, ["1"]);
    assert_eq!(waits(&mut client).await.2, WaitReason::Ended);
    assert_eq!(waits(&mut client).await.2, WaitReason::Redirect);
    let paths: Vec<_> = server.request_lines().iter().map(|line| line[4..6].to_owned()).collect();
    assert_eq!(paths, ["/f", "/b", "/c", "/f", "/a", "/a", "/a"]);
    assert_eq!(server.header("last-event-id")[3..], vec![Some("1".to_owned()); 4]);
    assert_eq!(server.header("accept"), vec![Some("text/event-stream".to_owned()); 7]);
}

#[tokio::test]
async fn configured_headers_do_not_go_to_another_origin() {
    let other = Server::start(vec![stream("data: elsewhere\n\n")]).await;
    let location = format!("Location: http://{}/", other.addr);
    let server = Server::start(vec![status("302 Found", &[&location])]).await;
    let mut config = config(&server);
    config.headers = vec![("X-Api-Key".to_owned(), "secret".to_owned())];
    let mut client = SseClient::new(config.clone()).unwrap();
    assert_eq!(waits(&mut client).await.2, WaitReason::Redirect);
    assert!(other.request_lines().is_empty());
    config.headers.clear();
    let mut client = SseClient::new(config).unwrap();
    assert_eq!(events(&mut client, 1).await, ["elsewhere"]);
}

#[tokio::test]
async fn the_servers_retry_is_kept_over_reconnects_within_floor_and_ceiling() {
    let server = Server::start(vec![
        stream("retry: 8\ndata: 1\n\n"),
        stream("data: 2\n\n"),
        stream("retry: 0\ndata: 3\n\n"),
        stream("retry: 99999999999999999999999\ndata: 4\n\n"),
        held(""),
    ])
    .await;
    let mut config = config(&server);
    (config.retry, config.retry_floor) = (ms(5), ms(3));
    let mut client = SseClient::new(config).unwrap();
    for (data, base) in [("1", 8), ("2", 8), ("3", 3), ("4", 20)] {
        assert_eq!(events(&mut client, 1).await, [data]);
        let (failures, delay, _) = waits(&mut client).await;
        assert_eq!(failures, 1);
        assert!(delay >= ms(base) && delay <= ms(2 * base), "{delay:?} for {base}");
    }
}

#[tokio::test]
async fn only_a_healthy_stream_and_not_a_connect_resets_the_backoff() {
    let server = Server::start(vec![
        stream(""),
        stream(""),
        status("500 Oops", &[]),
        stream(""),
        stream("data: 1\n\n"),
        stream(""),
    ])
    .await;
    let mut client = client(&server);
    for failures in 1..=4 {
        assert_eq!(waits(&mut client).await.0, failures);
    }
    assert_eq!(events(&mut client, 1).await, ["1"]);
    assert_eq!(waits(&mut client).await.0, 1);
    assert_eq!(waits(&mut client).await.0, 2);

    // A stream that stays up is healthy too; here any time is enough.
    let mut config = config(&server);
    config.healthy_after = Duration::ZERO;
    let mut client = SseClient::new(config).unwrap();
    for _ in 0..3 {
        assert_eq!(waits(&mut client).await.0, 1);
    }
}

#[tokio::test]
async fn an_unreachable_server_is_retried() {
    let server = Server::start(vec![held("")]).await;
    let mut config = config(&server);
    config.url = format!("http://user:pa55@{}/feed", server.addr);
    drop(server);
    tokio::task::yield_now().await; // the listener is closed with its task
    let mut client = SseClient::new(config).unwrap();
    for failures in 1..=2 {
        let (count, _, reason) = waits(&mut client).await;
        assert_eq!(count, failures);
        assert!(matches!(reason, WaitReason::Unreachable(_)), "{reason:?}");
        assert!(!format!("{reason} {reason:?}").contains("pa55"));
    }
}

#[tokio::test]
async fn a_server_that_is_faster_than_the_consumer_has_to_wait() {
    // Far more than fits into the buffers of two sockets.
    let (size, count) = (64 * 1024, 1024);
    let event = [b"data:".to_vec(), vec![b'x'; size], b"\n\n".to_vec()].concat();
    let total = (event.len() * count) as u64;
    let server = Server::start(vec![vec![head(), Step::Flood(event, count), Step::Hold]]).await;
    let mut client = client(&server);
    events(&mut client, 1).await;
    let stalls = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(ms(200)).await;
            let now = server.flooded.load(Ordering::SeqCst);
            if now > 0 && now == before {
                return now;
            }
            before = now;
        }
    };
    let stalled_at = timeout(HANG, stalls).await.expect("a stall");
    assert!(stalled_at < total, "all {total} bytes were taken from the server unasked");
    // Nothing is lost.
    for data in events(&mut client, count - 1).await {
        assert_eq!(data.len(), size);
    }
}

#[tokio::test]
async fn a_batch_has_the_available_items_in_order_up_to_its_limit() {
    let body: String = (0..100).map(|n| format!("data: {n}\n\n")).collect();
    let one_chunk = chunks(&[body.as_bytes()]);
    let server = Server::start(vec![one_chunk, held("data: 100\n\n")]).await;
    let mut client = client(&server);
    let mut got = Vec::new();
    let mut sizes = Vec::new();
    while got.len() < 101 {
        let batch = timeout(HANG, client.next_batch(40)).await.expect("a batch in time").unwrap();
        sizes.push(batch.len());
        for item in batch {
            if let SseItem::Event(event) = item {
                got.push(event.data);
            }
        }
    }
    assert_eq!(got, (0..=100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(sizes, [40, 40, 20, 1]);
}

#[tokio::test]
async fn a_batch_is_limited_in_bytes() {
    let event = format!("data: {}\n\n", "x".repeat(600));
    let body = event.repeat(10);
    let server = Server::start(vec![[chunks(&[body.as_bytes()]), vec![Step::Hold]].concat()]).await;
    let mut config = config(&server);
    config.limits.max_event_bytes = 1000;
    let mut client = SseClient::new(config).unwrap();
    let mut left = 10;
    while left > 0 {
        let batch = timeout(HANG, client.next_batch(100)).await.expect("a batch in time").unwrap();
        assert!(batch.len() <= 2, "{}", batch.len());
        left -= batch.len();
    }
}

#[tokio::test]
async fn pulls_that_are_dropped_at_every_await_lose_nothing() {
    let tenth = |turn: usize| {
        let lines: Vec<_> = (0..10).map(|n| format!("id: {turn}\ndata: {}\n\n", turn * 10 + n)).collect();
        let parts: Vec<_> = lines.iter().flat_map(|line| line.as_bytes().chunks(7)).collect();
        chunks(&parts)
    };
    let mut scripts: Vec<_> = (0..10).map(tenth).collect();
    scripts.push(vec![Step::Hold]);
    let server = Server::start(scripts).await;
    let mut client = client(&server);
    let mut got = Vec::new();
    let read = async {
        while got.len() < 100 {
            // Each pull is polled once and dropped, batches and single items in turn.
            let batch = got.len() % 2 == 0;
            let items = tokio::select! {
                biased;
                items = client.next_batch(3), if batch => items.unwrap(),
                () = std::future::ready(()), if batch => {
                    tokio::task::yield_now().await;
                    continue;
                }
                () = std::future::ready(()), if !batch => vec![item_polled_once(&mut client).await],
            };
            for item in items {
                if let SseItem::Event(event) = item {
                    got.push(event.data.parse::<usize>().unwrap());
                }
            }
        }
    };
    timeout(HANG, read).await.expect("all events in time");
    assert_eq!(got, (0..100).collect::<Vec<_>>());
}

async fn item_polled_once(client: &mut SseClient) -> SseItem {
    loop {
        tokio::select! {
            biased;
            item = client.next() => return item.unwrap(),
            () = std::future::ready(()) => tokio::task::yield_now().await,
        }
    }
}

#[test]
fn an_invalid_configuration_is_refused_without_its_secrets() {
    let refused = |change: fn(&mut SseConfig)| {
        let mut config = SseConfig::new("http://localhost/");
        change(&mut config);
        SseClient::new(config).err().expect("a refusal")
    };
    let error = refused(|config| config.url = "ftp://u:pa55@host/".into());
    assert!(matches!(error, SseConfigError::Url { .. }) && !error.to_string().contains("pa55"), "{error}");
    let error = refused(|config| config.url = "nowhere".into());
    assert!(matches!(error, SseConfigError::Url { .. }), "{error}");
    let error = refused(|config| config.headers = vec![("X-Key".into(), "s3c\nret".into())]);
    assert!(matches!(error, SseConfigError::Header { .. }) && !format!("{error:?}").contains("s3c"), "{error}");
    let error = refused(|config| config.retry = Duration::from_secs(3600));
    assert!(matches!(error, SseConfigError::Limit { key: "retry", .. }), "{error}");
    let error = refused(|config| config.idle_timeout = Some(Duration::MAX));
    assert!(matches!(error, SseConfigError::Limit { key: "idle_timeout", .. }), "{error}");
}
