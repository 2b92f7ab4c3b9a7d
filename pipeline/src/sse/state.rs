//! What a client is doing, for logs and dashboards, and why it stopped.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

/// What an [`SseClient`](super::SseClient) is doing, or will do when it is pulled next.
#[derive(Debug, Clone)]
pub enum SseState {
    /// A request is under way, or about to be made.
    Connecting {
        /// How many attempts have failed since the stream was last healthy.
        failures: u32,
    },
    /// The stream is open.
    Open {
        /// Since when.
        since: Instant,
    },
    /// Waiting before the next attempt.
    Waiting {
        /// Until when.
        until: Instant,
        /// How long in all.
        delay: Duration,
        /// How many attempts have failed since the stream was last healthy, this one included; a stream that was healthy
        /// and ended counts as the first.
        failures: u32,
        /// What happened.
        reason: WaitReason,
    },
    /// No further attempt will be made.
    Stopped(Stopped),
}

/// Why a client waits to connect again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// No connection or no answer: the name does not resolve, the connection was refused, TLS failed…
    Unreachable(String),
    /// A redirect could not be followed, or there were too many.
    Redirect,
    /// No response for this long.
    NoResponse(Duration),
    /// The server answered that it cannot serve now: 408, 425, 429 or 5xx.
    Status {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` asked for, before it was limited.
        retry_after: Option<Duration>,
    },
    /// The server ended the stream in an orderly way.
    Ended,
    /// The stream broke off.
    Broken(String),
    /// No byte came for this long.
    Idle(Duration),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) => write!(f, "no answer: {cause}"),
            Self::Redirect => f.write_str(
                "a redirect that cannot be followed (to another origin with configured headers, for one), or too many",
            ),
            Self::NoResponse(limit) => write!(f, "no response for {} ms", limit.as_millis()),
            Self::Status { status, .. } => write!(f, "HTTP status {status}"),
            Self::Ended => f.write_str("the server ended the stream"),
            Self::Broken(cause) => write!(f, "the stream broke off: {cause}"),
            Self::Idle(limit) => write!(f, "no byte for {} ms", limit.as_millis()),
        }
    }
}

/// Why a client has stopped for good. The URLs are those that answered, after redirects, without credentials and query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stopped {
    /// Status 204: the server asks its clients not to come back (WHATWG).
    #[error("{url} has no more events (HTTP status 204)")]
    NoContent {
        /// Who said so.
        url: String,
    },
    /// A status that asking again will not change.
    #[error("{url} answered with HTTP status {status}")]
    Status {
        /// Who said so.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// A 200 that is no event stream.
    #[error("{url} answered with content type {content_type:?} instead of text/event-stream")]
    ContentType {
        /// Who answered.
        url: String,
        /// The content type, empty where there was none; at most 100 characters of it.
        content_type: String,
    },
    /// An event stream in a content encoding that was not asked for.
    #[error("{url} answered in content encoding {encoding:?}, which was not asked for")]
    ContentEncoding {
        /// Who answered.
        url: String,
        /// The encoding; at most 100 characters of it.
        encoding: String,
    },
}

/// A URL as it may be shown: without user name, password, query and fragment, any of which can be a secret.
pub(super) fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that have no host, and so no credentials either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        let url = Url::parse("https://user:pa55@host.example:8443/a/b?token=s3cret#frag").unwrap();
        assert_eq!(shown_url(&url), "https://host.example:8443/a/b");
    }
}
