//! The state of a client, for logs and dashboards, and the reason that it stopped.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

/// The state of an [`SseClient`](super::SseClient): its current action, or the one that the next pull starts.
#[derive(Debug, Clone)]
pub enum SseState {
    /// A request is in progress or about to start.
    Connecting {
        /// The number of attempts that have failed since the stream was last healthy.
        failures: u32,
    },
    /// The stream is open.
    Open {
        /// The time at which it opened.
        since: Instant,
    },
    /// Waiting before the next attempt.
    Waiting {
        /// The end of the wait.
        until: Instant,
        /// The total length of the wait.
        delay: Duration,
        /// The number of failed attempts since the stream was last healthy, this one included; a stream that was healthy
        /// and ended counts as the first.
        failures: u32,
        /// The cause of the wait.
        reason: WaitReason,
    },
    /// No further attempt will be made.
    Stopped(Stopped),
}

/// The reason for the wait before a reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// No connection or no answer: the name does not resolve, the connection was refused, TLS failed, and so on.
    Unreachable(String),
    /// A redirect could not be followed, or there were too many.
    Redirect,
    /// No response for this long.
    NoResponse(Duration),
    /// The server answered that it cannot serve now: 408, 425, 429 or 5xx.
    Status {
        /// The HTTP status.
        status: u16,
        /// The wait in `Retry-After`, before it was limited.
        retry_after: Option<Duration>,
    },
    /// The answer was a refusal or no event stream, and the configuration asks for a retry.
    Refused(Stopped),
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
                "too many redirects, or one that cannot be followed (such as to another origin with configured headers)",
            ),
            Self::NoResponse(limit) => write!(f, "no response for {} ms", limit.as_millis()),
            Self::Status { status, .. } => write!(f, "HTTP status {status}"),
            Self::Refused(stopped) => stopped.fmt(f),
            Self::Ended => f.write_str("the server ended the stream"),
            Self::Broken(cause) => write!(f, "the stream broke off: {cause}"),
            Self::Idle(limit) => write!(f, "no byte for {} ms", limit.as_millis()),
        }
    }
}

/// The reason that a client has stopped permanently. URLs are those that answered, after redirects, without credentials and query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stopped {
    /// Status 204: the server asks its clients not to come back (WHATWG).
    #[error("{url} has no more events (HTTP status 204)")]
    NoContent {
        /// The URL that answered.
        url: String,
    },
    /// A status that a retry will not change.
    #[error("{url} answered with HTTP status {status}")]
    Status {
        /// The URL that answered.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// A 200 that is no event stream.
    #[error("{url} answered with content type {content_type:?} instead of text/event-stream")]
    ContentType {
        /// The URL that answered.
        url: String,
        /// The content type, empty where there was none; at most 100 characters of it.
        content_type: String,
    },
    /// An event stream in a content encoding that was not asked for.
    #[error("{url} answered in content encoding {encoding:?}, which was not asked for")]
    ContentEncoding {
        /// The URL that answered.
        url: String,
        /// The encoding; at most 100 characters of it.
        encoding: String,
    },
}

/// A URL for logs, without user name, password, query and fragment, any of which can be a secret.
pub(super) fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs without a host, which have no credentials either.
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
    fn possible_secrets_in_a_url_are_hidden() {
        let url = Url::parse("https://user:pa55@host.example:8443/a/b?token=s3cret#frag").unwrap();
        assert_eq!(shown_url(&url), "https://host.example:8443/a/b");
    }
}
