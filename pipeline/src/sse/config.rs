//! What to read, and how patiently.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::state::shown_url;

/// The bounds of what a [`Parser`](super::Parser) keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParserLimits {
    /// The longest line, in bytes without its end. Default: 1 MiB, what the broker takes as a line. At least
    /// [`MIN_LINE_BYTES`](Self::MIN_LINE_BYTES).
    pub max_line_bytes: usize,
    /// The most data of one event, in bytes with the line feeds between its lines. Default: 4 MiB.
    pub max_event_bytes: usize,
}

impl ParserLimits {
    /// The least a line may be limited to, in bytes.
    pub const MIN_LINE_BYTES: usize = 64;
}

impl Default for ParserLimits {
    fn default() -> Self {
        Self { max_line_bytes: 1024 * 1024, max_event_bytes: 4 * 1024 * 1024 }
    }
}

/// The longest time any of the settings below may be set to. It keeps sums of times and instants from overflowing.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What an [`SseClient`](super::SseClient) reads and how. `SseConfig::new(url)` has the defaults named below.
#[derive(Clone)]
pub struct SseConfig {
    /// An `http` or `https` URL. User name and password in it are sent as basic authentication.
    pub url: String,
    /// Sent with every request, in this order, and instead of what the client sends by itself under the same name
    /// (`Accept`, `Cache-Control`, `User-Agent`). `Last-Event-ID` is the client's own. Where any are
    /// configured, a redirect to another origin is not followed: they may be secrets of this one.
    pub headers: Vec<(String, String)>,
    /// Where to resume: the id of the last event that has been dealt with. Empty (the default): where the server begins.
    pub last_event_id: String,
    /// The parser's bounds.
    pub limits: ParserLimits,
    /// How long a TCP connection with its TLS handshake may take. Default: 10 s.
    pub connect_timeout: Duration,
    /// The longest silence, before the response's headers and between any bytes of the stream, until the connection
    /// counts as dead. Comments count as bytes. `None`: no limit. Default: 120 s.
    pub idle_timeout: Option<Duration>,
    /// The reconnection time until the server sets another. Default: 1 s.
    pub retry: Duration,
    /// The least a server's `retry` may set. Default: 500 ms.
    pub retry_floor: Duration,
    /// The most a server's `retry` may set. Default: 30 s.
    pub retry_ceiling: Duration,
    /// The longest wait between attempts, where the server does not ask for more. Default: 60 s.
    pub max_backoff: Duration,
    /// The longest wait that a `Retry-After` is believed. Default: 10 min.
    pub max_retry_after: Duration,
    /// A stream that stays up this long is healthy, even if it brings no event: the next wait is a short one again.
    /// Default: 60 s.
    pub healthy_after: Duration,
    /// The most redirects that are followed for one request. Default: 10.
    pub max_redirects: usize,
    /// Whether to go through the proxy that the environment names (`HTTPS_PROXY` and so on). Default: true.
    pub system_proxy: bool,
}

impl SseConfig {
    /// Reads `url` with the defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            last_event_id: String::new(),
            limits: ParserLimits::default(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Some(Duration::from_secs(120)),
            retry: Duration::from_secs(1),
            retry_floor: Duration::from_millis(500),
            retry_ceiling: Duration::from_secs(30),
            max_backoff: Duration::from_secs(60),
            max_retry_after: Duration::from_secs(10 * 60),
            healthy_after: Duration::from_secs(60),
            max_redirects: 10,
            system_proxy: true,
        }
    }

    /// Checks everything and gives the URL and the headers in the form in which they are used.
    pub(super) fn check(&self) -> Result<(Url, HeaderMap), SseConfigError> {
        let url = Url::parse(&self.url).map_err(|error| SseConfigError::Url { reason: error.to_string() })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SseConfigError::Url { reason: format!("the scheme is {}, not http or https", url.scheme()) });
        }
        self.check_limits()?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let invalid = || SseConfigError::Header { name: name.clone() };
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.append(key, value);
        }
        Ok((url, headers))
    }

    fn check_limits(&self) -> Result<(), SseConfigError> {
        let limit = |key, expected| Err(SseConfigError::Limit { key, expected });
        if self.limits.max_line_bytes < ParserLimits::MIN_LINE_BYTES {
            return limit("max_line_bytes", "at least 64");
        }
        if self.limits.max_event_bytes == 0 {
            return limit("max_event_bytes", "at least 1");
        }
        if self.connect_timeout.is_zero() || self.connect_timeout > LONGEST {
            return limit("connect_timeout", "more than 0 and at most a day");
        }
        if self.idle_timeout.is_some_and(|idle| idle.is_zero() || idle > LONGEST) {
            return limit("idle_timeout", "more than 0 and at most a day");
        }
        if self.retry_floor < Duration::from_millis(1) {
            return limit("retry_floor", "at least 1 ms");
        }
        if self.retry_floor > self.retry || self.retry > self.retry_ceiling {
            return limit("retry", "between retry_floor and retry_ceiling");
        }
        if self.retry_ceiling > self.max_backoff {
            return limit("retry_ceiling", "at most max_backoff");
        }
        if self.max_backoff > LONGEST || self.max_retry_after > LONGEST || self.healthy_after > LONGEST {
            return limit("max_backoff, max_retry_after and healthy_after", "at most a day");
        }
        Ok(())
    }
}

impl fmt::Debug for SseConfig {
    /// Without what may be secret: the URL's credentials and query, and the headers' values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Url::parse(&self.url).map_or_else(|_| "(not a URL)".to_owned(), |url| shown_url(&url));
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("SseConfig")
            .field("url", &url)
            .field("headers", &headers)
            .field("last_event_id", &self.last_event_id)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SseConfigError {
    /// The URL is none, or not of HTTP.
    #[error("the SSE url cannot be used: {reason}")]
    Url {
        /// What is wrong with it, without quoting it: it may hold a password.
        reason: String,
    },
    /// A header's name or value cannot be sent.
    #[error("the header {name:?} has a name or a value that HTTP does not allow")]
    Header {
        /// The name; the value may be a secret.
        name: String,
    },
    /// A limit or time is out of range.
    #[error("{key} must be {expected}")]
    Limit {
        /// The field of [`SseConfig`] or [`ParserLimits`].
        key: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// The HTTP client could not be set up, for want of TLS roots, say.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}
