//! Where a broker listens.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// The line protocol over TCP.
    Tcp,
    /// The same within TLS.
    Tls,
    /// The same in the text messages of a WebSocket.
    Ws,
    /// A WebSocket within TLS.
    Wss,
}

impl Scheme {
    /// As written before `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// `host:port`, `tcp://host:port`, `tls://…`, `ws://host:port/path` or `wss://…`.
///
/// Every scheme parses, so that one setting serves any build. Whether this build can dial it (features `tls` and `ws`) is found
/// out when a [`Client`](crate::Client) is made ([`Error::Unsupported`]).
///
/// ```
/// # use transport_client::{Address, Scheme};
/// let address: Address = "tcp://broker.example:8000".parse()?;
/// assert_eq!((address.scheme(), address.host(), address.port()), (Scheme::Tcp, "broker.example", 8000));
/// assert_eq!("[::1]:8000".parse::<Address>()?.host(), "::1");
/// # Ok::<(), transport_client::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

impl Address {
    /// The scheme, which decides how the address is dialled.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether the address is dialled without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.scheme, Scheme::Tcp | Scheme::Ws)
    }

    /// The host's name or number, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of a WebSocket, `/ws` where none is given, which is where a broker has it by default; empty for `tcp` and `tls`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Fails for what this build cannot dial.
    pub(crate) fn check_supported(&self) -> Result<(), Error> {
        let supported = match self.scheme {
            Scheme::Tcp => true,
            Scheme::Tls => cfg!(feature = "tls"),
            Scheme::Ws => cfg!(feature = "ws"),
            Scheme::Wss => cfg!(all(feature = "tls", feature = "ws")),
        };
        if supported { Ok(()) } else { Err(Error::Unsupported { scheme: self.scheme.as_str() }) }
    }
}

impl Default for Address {
    /// `127.0.0.1:8000`, where a broker listens without configuration.
    fn default() -> Self {
        Self { scheme: Scheme::Tcp, host: "127.0.0.1".to_owned(), port: 8000, path: String::new() }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Error::Invalid(format!("invalid server address {text:?}: {why}; expected host:port or tcp://host:port"))
        };
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Tcp, text),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "tcp" => (Scheme::Tcp, rest),
                "tls" => (Scheme::Tls, rest),
                "ws" => (Scheme::Ws, rest),
                "wss" => (Scheme::Wss, rest),
                _ => return Err(wrong("the scheme is none of tcp, tls, ws, wss")),
            },
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = match scheme {
            Scheme::Tcp | Scheme::Tls if path.is_empty() || path == "/" => String::new(),
            Scheme::Tcp | Scheme::Tls => return Err(wrong("only ws and wss have a path")),
            Scheme::Ws | Scheme::Wss if path.is_empty() => "/ws".to_owned(),
            Scheme::Ws | Scheme::Wss => path.to_owned(),
        };
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| wrong("there is no port"))?;
        let port = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains(':') => return Err(wrong("an IPv6 address goes in brackets")),
            None => host,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || "@[]".contains(c)) {
            return Err(wrong("there is no valid host"));
        }
        Ok(Self { scheme, host: host.to_owned(), port, path })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port, path } = self;
        let scheme = scheme.as_str();
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}{path}")
        } else {
            write!(f, "{scheme}://{host}:{port}{path}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_displays_as_a_url_that_parses_again() {
        for (text, shown) in [
            ("localhost:8000", "tcp://localhost:8000"),
            ("tcp://localhost:8000", "tcp://localhost:8000"),
            ("TCP://localhost:8000/", "tcp://localhost:8000"),
            ("[::1]:1", "tcp://[::1]:1"),
            ("tls://h:2", "tls://h:2"),
            ("ws://h:3", "ws://h:3/ws"),
            ("ws://h:3/", "ws://h:3/"),
            ("wss://h:4/ws", "wss://h:4/ws"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_expected() {
        for text in
            ["", "localhost", ":8000", "h:99999", "h:", "::1:8000", "http://h:80", "tcp://h:1/x", "a b:1", "u@h:1"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("expected host:port"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_built_in_is_refused_with_a_reason() {
        for (text, built) in [
            ("tcp://h:1", true),
            ("tls://h:1", cfg!(feature = "tls")),
            ("ws://h:1/ws", cfg!(feature = "ws")),
            ("wss://h:1/ws", cfg!(all(feature = "tls", feature = "ws"))),
        ] {
            let supported = text.parse::<Address>().unwrap().check_supported();
            assert_eq!(supported.is_ok(), built, "{text}: {supported:?}");
        }
        let error = Error::Unsupported { scheme: "ws" };
        assert!(error.to_string().contains("not supported by this build"), "{error}");
    }
}
