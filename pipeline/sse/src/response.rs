//! The client's reaction to a server's response.

use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{StatusCode, Url};

use super::config::OnClientError;
use super::state::{Stopped, WaitReason, shown_url};

/// The type of an event stream.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// The reaction to a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Read the stream.
    Open,
    /// Retry later.
    Retry(WaitReason),
    /// Never retry.
    Stop(Stopped),
}

impl Verdict {
    /// Applies `on_client_error`, which may turn a refusal into a retry. A 204 always stops.
    pub(super) fn by(self, on_client_error: OnClientError) -> Self {
        match self {
            Self::Stop(stopped)
                if on_client_error == OnClientError::Retry && !matches!(stopped, Stopped::NoContent { .. }) =>
            {
                Self::Retry(WaitReason::Refused(stopped))
            }
            verdict => verdict,
        }
    }
}

/// Judges a response after redirects. `now` is the local wall clock.
///
/// The standard gives up on anything but a 200 with the right type. That suits a page that its reader can reload. An unattended process
/// retries where the status says that the failure may pass: 408, 425, 429 and 5xx.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, url: &Url, now: SystemTime) -> Verdict {
    if status == StatusCode::OK {
        return judge_type(headers, url);
    }
    if status == StatusCode::NO_CONTENT {
        return Verdict::Stop(Stopped::NoContent { url: shown_url(url) });
    }
    if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
        return Verdict::Retry(WaitReason::Status { status: status.as_u16(), retry_after: retry_after(headers, now) });
    }
    Verdict::Stop(Stopped::Status { url: shown_url(url), status: status.as_u16() })
}

fn judge_type(headers: &HeaderMap, url: &Url) -> Verdict {
    let content_type = text(headers, &CONTENT_TYPE);
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(EVENT_STREAM) {
        return Verdict::Stop(Stopped::ContentType { url: shown_url(url), content_type: shortened(&content_type) });
    }
    let encoding = text(headers, &CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        return Verdict::Stop(Stopped::ContentEncoding { url: shown_url(url), encoding: shortened(&encoding) });
    }
    Verdict::Open
}

/// The wait in `Retry-After` (RFC 9110, 10.2.3), in either form: seconds, or a date. A date is compared with the response's own `Date`
/// if it has one, because two clocks seldom agree.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = text(headers, &RETRY_AFTER);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that do not fit into a `u64` mean the longest wait.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(&value).ok()?;
    let now = httpdate::parse_http_date(&text(headers, &DATE)).unwrap_or(now);
    // A date in the past means no wait.
    Some(date.duration_since(now).unwrap_or_default())
}

/// A header's value as text, empty where there is none.
fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).unwrap_or_default()
}

/// The beginning of a text whose length the server chose.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn judged(status: u16, headers: &[(HeaderName, &str)]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        let url = Url::parse("http://u:p@feed.example/x?key=1").unwrap();
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        judge(StatusCode::from_u16(status).unwrap(), &map, &url, now)
    }

    fn retried(status: u16, seconds: Option<u64>) -> Verdict {
        Verdict::Retry(WaitReason::Status { status, retry_after: seconds.map(Duration::from_secs) })
    }

    #[test]
    fn a_200_needs_the_type_of_an_event_stream() {
        for good in ["text/event-stream", "Text/Event-Stream; charset=utf-8", "text/event-stream ;x"] {
            assert_eq!(judged(200, &[(CONTENT_TYPE, good)]), Verdict::Open, "{good}");
        }
        for bad in ["text/html", "text/event-streams", "application/json; text/event-stream"] {
            let stopped = Stopped::ContentType { url: "http://feed.example/x".into(), content_type: bad.into() };
            assert_eq!(judged(200, &[(CONTENT_TYPE, bad)]), Verdict::Stop(stopped));
        }
        let none = judged(200, &[]);
        assert!(matches!(none, Verdict::Stop(Stopped::ContentType { .. })), "{none:?}");
    }

    #[test]
    fn an_encoding_that_was_not_asked_for_is_not_read() {
        let typed = (CONTENT_TYPE, EVENT_STREAM);
        assert_eq!(judged(200, &[typed.clone(), (CONTENT_ENCODING, "Identity")]), Verdict::Open);
        let gzip = judged(200, &[typed, (CONTENT_ENCODING, "gzip")]);
        assert!(matches!(gzip, Verdict::Stop(Stopped::ContentEncoding { .. })), "{gzip:?}");
    }

    #[test]
    fn a_status_stops_or_is_retried() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(judged(status, &[]), retried(status, None));
        }
        let url = "http://feed.example/x".to_owned();
        for status in [201, 205, 206, 304, 400, 401, 403, 404, 410, 451] {
            let stopped = Stopped::Status { url: url.clone(), status };
            assert_eq!(judged(status, &[]), Verdict::Stop(stopped));
        }
        assert_eq!(judged(204, &[]), Verdict::Stop(Stopped::NoContent { url }));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let date = "Sun, 06 Nov 1994 08:49:57 GMT";
        let cases = [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("99999999999999999999999", Some(u64::MAX)),
            (date, Some(20)),
            ("Sunday, 06-Nov-94 08:49:57 GMT", Some(20)),
            ("Sun Nov  6 08:49:57 1994", Some(20)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(judged(503, &[(RETRY_AFTER, value)]), retried(503, seconds), "{value}");
        }
        let by_its_clock = [(RETRY_AFTER, date), (DATE, "Sun, 06 Nov 1994 08:49:52 GMT")];
        assert_eq!(judged(429, &by_its_clock), retried(429, Some(5)));
    }
}
