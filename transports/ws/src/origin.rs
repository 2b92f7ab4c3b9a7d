//! The check of the pages that may connect.
//!
//! A browser lets any page open a WebSocket to any server, and says in `Origin` which page it is. Without the check, a page that
//! a user happens to visit could talk to a broker on the user's machine. Other programs send no `Origin`, or what they like:
//! against them the check is nothing, tokens are what keeps them out; and so are pages whose name has been made to point at the
//! broker, which to everyone look like those of the same host.

/// Whether a page of `origin` may connect to a server that it called `host`.
pub(crate) fn allowed(origin: &str, host: Option<&str>, others: &[String]) -> bool {
    let same_host = || match (host_of(origin), host) {
        (Some(origin), Some(host)) => origin.eq_ignore_ascii_case(without_port(host)),
        _ => false,
    };
    others.iter().any(|other| other == "*" || other.eq_ignore_ascii_case(origin)) || same_host()
}

/// Whether `origin` can stand in a list of origins.
///
/// # Errors
/// The expected form.
pub fn check_origin(origin: &str) -> Result<(), &'static str> {
    let valid = match origin {
        "*" | "null" => true,
        _ => host_of(origin).is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace)),
    };
    let is_bare = origin.split_once("://").is_none_or(|(_, rest)| !rest.contains(['/', '?', '#', '@']));
    if valid && is_bare {
        Ok(())
    } else {
        Err(
            "expected an origin as browsers send it, such as \"https://app.example\" or \"http://localhost:3000\" without a path, \"null\", or \"*\"",
        )
    }
}

/// The host in `scheme://host:port`.
fn host_of(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, rest)| without_port(rest))
}

/// `host`, `[::1]`: what stands before the port. Ports do not count: the page's server is another than the broker's.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_host_may_come_whatever_the_port_and_others_if_they_are_listed() {
        let listed = ["https://app.example".to_owned(), "http://localhost:3000".to_owned()];
        for (origin, host, expected) in [
            ("http://broker.example", "broker.example:8001", true),
            ("http://broker.example:8090", "BROKER.example", true),
            ("http://[::1]:8090", "[::1]:8001", true),
            ("https://app.example", "broker.example:8001", true),
            ("https://app.example:444", "broker.example:8001", false),
            ("http://app.example", "broker.example:8001", false),
            ("http://localhost:3000", "127.0.0.1:8001", true),
            ("http://localhost", "127.0.0.1:8001", false),
            ("http://evil.example", "broker.example:8001", false),
            ("http://broker.example.evil.example", "broker.example:8001", false),
            ("http://evil.example/broker.example", "broker.example:8001", false),
            ("null", "broker.example:8001", false),
            ("broker.example", "broker.example", false),
            ("", "", false),
        ] {
            assert_eq!(allowed(origin, Some(host), &listed), expected, "{origin} {host}");
        }
        assert!(!allowed("http://h", None, &[]));
        assert!(allowed("http://anything", None, &["*".to_owned()]));
        assert!(allowed("null", Some("h"), &["null".to_owned()]));
    }

    #[test]
    fn what_is_no_origin_cannot_be_listed() {
        for origin in ["https://app.example", "http://localhost:3000", "*", "null", "chrome-extension://abc"] {
            assert_eq!(check_origin(origin), Ok(()), "{origin}");
        }
        for origin in ["", "app.example", "https://app.example/", "https://u@app.example", "https://", "https://a b"] {
            assert!(check_origin(origin).is_err(), "{origin}");
        }
    }
}
