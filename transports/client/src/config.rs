//! Settings of a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::backoff::BackoffSettings;
use crate::error::Error;

/// An authentication token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Token {
    fn from(token: T) -> Self {
        Self(token.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Longer than anybody waits, and short enough to be added to any clock without overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The settings of a [`Client`](crate::Client) and its subscriptions. Every setting but the address has a default.
///
/// ```
/// # use transport_client::ClientConfig;
/// let config = ClientConfig::new("127.0.0.1:8000".parse()?).name("billing").token("s3cret");
/// # Ok::<(), transport_client::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub(crate) address: Address,
    pub(crate) token: Option<Token>,
    pub(crate) name: Option<String>,
    pub(crate) authorities: Option<Arc<[u8]>>,
    pub(crate) backoff: BackoffSettings,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) close_timeout: Duration,
    pub(crate) retry_first_connect: bool,
    pub(crate) max_unconfirmed: usize,
    pub(crate) max_unconfirmed_bytes: usize,
    pub(crate) max_line_bytes: usize,
}

impl ClientConfig {
    /// The defaults, for the broker at `address`.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            token: None,
            name: None,
            authorities: None,
            backoff: BackoffSettings::default(),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(30),
            keepalive: Some(Duration::from_secs(30)),
            close_timeout: Duration::from_secs(5),
            retry_first_connect: false,
            max_unconfirmed: 1024,
            max_unconfirmed_bytes: 64 * 1024 * 1024,
            max_line_bytes: 16 * 1024 * 1024,
        }
    }

    /// The authentication token. Default: none.
    #[must_use]
    pub fn token(mut self, token: impl Into<Token>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// A name for the broker's logs and dashboard. Default: none; the broker shows the peer's address.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The certificate authorities to trust with `tls` and `wss`, PEM. Default: those of the operating system.
    #[must_use]
    pub fn authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(pem.into().into());
        self
    }

    /// The waits between attempts to connect.
    #[must_use]
    pub fn backoff(mut self, backoff: BackoffSettings) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long one attempt may take, from the dialling to the answer to `hello`. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the broker may keep silent while an answer is due, before the connection counts as lost.
    /// Default: 30 s, which a slow disk's sync fits in.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// After how long a silence to send `ping`, which finds out about a peer that is gone without a word and keeps the
    /// broker's `idle_timeout_ms` away. `None`: never. Default: 30 s.
    #[must_use]
    pub fn keepalive(mut self, interval: Option<Duration>) -> Self {
        self.keepalive = interval;
        self
    }

    /// How long `close()` waits for answers that are due and for the broker's `bye`. Default: 5 s.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Whether [`Client::connect`](crate::Client::connect) and [`Client::subscribe`](crate::Client::subscribe) go on
    /// trying, with backoff, where the broker is not up yet, instead of returning the first failure.
    /// An error that a retry cannot fix (a wrong token, say) is returned in any case. Default: false.
    #[must_use]
    pub fn retry_first_connect(mut self, retry: bool) -> Self {
        self.retry_first_connect = retry;
        self
    }

    /// How many publishes may wait for their confirmation; the next one waits for room. At least 1. Default: 1024.
    #[must_use]
    pub fn max_unconfirmed(mut self, events: usize) -> Self {
        self.max_unconfirmed = events;
        self
    }

    /// How many bytes the unconfirmed publishes may hold in memory together. A single event that is larger goes alone.
    /// Default: 64 MiB.
    #[must_use]
    pub fn max_unconfirmed_bytes(mut self, bytes: usize) -> Self {
        self.max_unconfirmed_bytes = bytes;
        self
    }

    /// The longest line taken from the broker, at least 1024 bytes; a longer one costs the connection. Where the broker
    /// says on connecting that its deliveries can be longer (`max_output_line_bytes`), lines of that length are taken,
    /// up to 128 MiB. (What is sent is held to the broker's `max_line_bytes`.) Default: 16 MiB.
    #[must_use]
    pub fn max_line_bytes(mut self, bytes: usize) -> Self {
        self.max_line_bytes = bytes;
        self
    }

    /// The broker's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Checks all of it, as whatever is made with it does.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: this build cannot dial the address; [`Error::Invalid`].
    pub fn validate(&self) -> Result<(), Error> {
        self.address.check_supported()?;
        self.backoff.validate()?;
        let timeouts = [self.connect_timeout, self.response_timeout, self.close_timeout];
        if timeouts.iter().chain(&self.keepalive).any(|time| time.is_zero() || *time > LONGEST) {
            return Err(Error::Invalid(
                "timeouts and keepalive: expected more than zero and at most a year".to_owned(),
            ));
        }
        if self.max_unconfirmed == 0 || self.max_unconfirmed_bytes == 0 {
            return Err(Error::Invalid("max_unconfirmed and max_unconfirmed_bytes are at least 1".to_owned()));
        }
        if self.max_line_bytes < 1024 {
            return Err(Error::Invalid("max_line_bytes is at least 1024".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_the_token() {
        let shown = format!("{:?}", ClientConfig::new(Address::default()).token("s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn settings_out_of_range_fail_instead_of_becoming_defaults() {
        let config = || ClientConfig::new(Address::default());
        assert!(config().validate().is_ok());
        for bad in [
            config().max_unconfirmed(0),
            config().max_line_bytes(10),
            config().connect_timeout(Duration::ZERO),
            config().keepalive(Some(Duration::ZERO)),
            config().response_timeout(Duration::MAX),
            config().backoff(BackoffSettings { max: Duration::MAX, ..BackoffSettings::default() }),
            config().backoff(BackoffSettings { max_attempts: Some(0), ..BackoffSettings::default() }),
        ] {
            assert!(matches!(bad.validate(), Err(Error::Invalid(_))), "{bad:?}");
        }
    }
}
