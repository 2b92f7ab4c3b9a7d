//! The settings of a client: the URL, its limits and its timeouts.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::state::shown_url;

/// The limits on the memory that a [`Parser`](super::Parser) uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParserLimits {
    /// The longest line, in bytes without its end. Default: 1 MiB, like the broker's own limit. At least
    /// [`MIN_LINE_BYTES`](Self::MIN_LINE_BYTES).
    pub max_line_bytes: usize,
    /// The most data of one event, in bytes with the line feeds between its lines. Default: 4 MiB.
    pub max_event_bytes: usize,
}

impl ParserLimits {
    /// The smallest limit on a line, in bytes.
    pub const MIN_LINE_BYTES: usize = 64;
}

impl Default for ParserLimits {
    fn default() -> Self {
        Self { max_line_bytes: 1024 * 1024, max_event_bytes: 4 * 1024 * 1024 }
    }
}

/// The upper limit of the durations below. It keeps sums of durations and instants from overflowing.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The settings of an [`SseClient`](super::SseClient). `SseConfig::new(url)` has the defaults named below.
#[derive(Clone)]
pub struct SseConfig {
    /// An `http` or `https` URL. User name and password in it are sent as basic authentication.
    pub url: String,
    /// Sent with every request, in this order. They replace the client's own headers of the same name (`Accept`, `Cache-Control`,
    /// `User-Agent`), except `Last-Event-ID`. If there are any, redirects to another origin are not followed, because the headers
    /// may be secrets of this one.
    pub headers: Vec<(String, String)>,
    /// The id to resume after: that of the last processed event. Empty (the default): the server decides where to start.
    pub last_event_id: String,
    /// The id to send if a header cannot carry `last_event_id`: the newest earlier one that can be sent.
    pub sendable_event_id: String,
    /// The parser's limits.
    pub limits: ParserLimits,
    /// The time limit for a TCP connection with its TLS handshake. Default: 10 s.
    pub connect_timeout: Duration,
    /// The longest silence, before the response's headers and between bytes of the stream, after which the connection counts as
    /// dead. Comments count as bytes. `None`: no limit. Default: 120 s.
    pub idle_timeout: Option<Duration>,
    /// The reconnection time until the server sets another. Default: 1 s.
    pub retry: Duration,
    /// The shortest reconnection time that a server can set. Default: 500 ms.
    pub retry_floor: Duration,
    /// The longest reconnection time that a server can set. Default: 30 s.
    pub retry_ceiling: Duration,
    /// The longest wait between attempts, unless the server asks for more. Default: 60 s.
    pub max_backoff: Duration,
    /// The longest wait that a `Retry-After` may ask for. Default: 10 min.
    pub max_retry_after: Duration,
    /// The time after which an open stream is healthy even without events, so that the next wait is short again. Default: 60 s.
    pub healthy_after: Duration,
    /// The most redirects to follow for one request. Default: 10.
    pub max_redirects: usize,
    /// The proxy, never used for loopback. Default: the environment's.
    pub proxy: ProxyChoice,
    /// The files for TLS. Default: none, which trusts the operating system's authorities.
    pub tls: TlsFiles,
    /// The reaction to an answer that is a refusal (4xx) or no event stream. Default: retry.
    pub on_client_error: OnClientError,
}

/// The reaction to an answer that is a refusal or no event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnClientError {
    /// Retry with growing pauses.
    #[default]
    Retry,
    /// Stop permanently.
    Stop,
}

/// The choice of a proxy.
#[derive(Clone, PartialEq, Eq)]
pub enum ProxyChoice {
    /// The proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY` and so on), if any.
    Environment,
    /// No proxy.
    Direct,
    /// This HTTP proxy; its URL may hold credentials.
    Url(String),
}

/// Files in PEM form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// The authorities to trust instead of the operating system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain and its private key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl SseConfig {
    /// Reads `url` with the defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            last_event_id: String::new(),
            sendable_event_id: String::new(),
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
            proxy: ProxyChoice::Environment,
            tls: TlsFiles::default(),
            on_client_error: OnClientError::Retry,
        }
    }

    /// Checks everything and returns the parsed URL and headers.
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
    /// Omits possible secrets: the URL's credentials and query, and the headers' values.
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
    /// The URL is malformed, or its scheme is not HTTP.
    #[error("the SSE url cannot be used: {reason}")]
    Url {
        /// The problem, without quoting the URL: it may hold a password.
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
        /// The accepted values.
        expected: &'static str,
    },
    /// TLS could not be set up, for example because there are no roots.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// A file for TLS cannot be read, or has nothing of what it should.
    #[error("{} cannot be used", path.display())]
    TlsFile {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The proxy is none that can be used.
    #[error("the proxy cannot be used: {reason}")]
    Proxy {
        /// The fault, without quoting the URL: it may hold a password.
        reason: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}
