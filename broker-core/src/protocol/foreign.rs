//! Recognises a client that speaks another protocol before any of its lines is executed.
//!
//! A web page can make the browser of whoever views it send an HTTP request with a body of its choice to any port of that machine.
//! Executed line by line, the body would be commands. So a request line, or a `Host:` line before the first valid command, ends
//! the connection.

use std::fmt;

use bytes::{BufMut as _, BytesMut};

/// A protocol that is not spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// An HTTP request.
    Http,
    /// The hello of a TLS client.
    Tls,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "an HTTP request, which this port does not speak",
            Self::Tls => "a TLS hello, on a port without TLS",
        })
    }
}

/// The methods of a request line, with the blank behind them.
const METHODS: [&str; 9] = ["GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "DELETE ", "PATCH ", "CONNECT ", "TRACE "];

/// The first bytes that are kept: enough for every method.
const KEPT: usize = 8;

/// Watches a connection from its first byte to its first valid command.
#[derive(Debug, Default)]
pub struct Opening {
    passed: bool,
    /// The first bytes, without the line ends before them.
    first: [u8; KEPT],
    len: usize,
    /// A line has come.
    begun: bool,
}

impl Opening {
    /// Takes the bytes of a read. A TLS hello has no line end to wait for.
    pub fn bytes(&mut self, read: &[u8]) -> Option<Foreign> {
        if self.passed || self.len == KEPT {
            return None;
        }
        for byte in read {
            if self.len == KEPT {
                break;
            }
            if self.len > 0 || !byte.is_ascii_whitespace() {
                self.first[self.len] = *byte;
                self.len += 1;
            }
        }
        // A record of type handshake, version 3.x; neither byte begins a line.
        (self.first[..self.len.min(2)] == [0x16, 0x03]).then_some(Foreign::Tls)
    }

    /// Takes a line, before it is executed.
    pub fn line(&mut self, line: &str) -> Option<Foreign> {
        if self.passed {
            return None;
        }
        self.begun = true;
        let is_host = line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("host:"));
        (is_host || is_request_line(line)).then_some(Foreign::Http)
    }

    /// Takes a line that is too long or not UTF-8. A request line can be either.
    pub fn unreadable_line(&mut self) -> Option<Foreign> {
        if self.passed || std::mem::replace(&mut self.begun, true) {
            return None;
        }
        let first = &self.first[..self.len];
        METHODS.iter().any(|method| first.starts_with(method.as_bytes())).then_some(Foreign::Http)
    }

    /// The client has sent a valid command: it is one of ours.
    pub fn pass(&mut self) {
        self.passed = true;
    }
}

fn is_request_line(line: &str) -> bool {
    let rest = METHODS.iter().find_map(|method| line.strip_prefix(method));
    rest.and_then(|rest| rest.rsplit_once(' '))
        .is_some_and(|(target, version)| !target.trim().is_empty() && version.starts_with("HTTP/1."))
}

/// Writes the response to an HTTP request. `speaks` completes "this port speaks …".
pub fn write_bad_request(out: &mut BytesMut, speaks: &str) {
    let body = format!("this port speaks {speaks}, not HTTP\r\n");
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n";
    out.put_slice(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_and_host_lines_are_http_until_the_first_valid_command() {
        for method in METHODS {
            let mut opening = Opening::default();
            assert_eq!(opening.line(&format!("{method}/a?b HTTP/1.1")), Some(Foreign::Http), "{method}");
            assert_eq!(opening.line(&format!("{method}* HTTP/1.0")), Some(Foreign::Http), "{method}");
            for other in [format!("{method}HTTP/1.1"), format!("{method}/ HTTP/2"), method.to_lowercase(), "x".into()] {
                assert_eq!(Opening::default().line(&other), None, "{other}");
            }
        }
        for host in ["Host: localhost:8000", "host:x", "HOST:"] {
            let mut opening = Opening::default();
            assert_eq!(opening.line("Accept: */*"), None);
            assert_eq!(opening.line(host), Some(Foreign::Http), "{host}");
            opening.pass();
            assert_eq!(opening.line(host), None, "{host}");
        }
    }

    #[test]
    fn a_first_line_that_is_unreadable_is_http_if_it_begins_like_a_request() {
        let mut opening = Opening::default();
        for byte in b"\r\nCONNECT xxx" {
            assert_eq!(opening.bytes(&[*byte]), None);
        }
        assert_eq!(opening.unreadable_line(), Some(Foreign::Http));
        assert_eq!(opening.unreadable_line(), None, "only the first line");
        let mut opening = Opening::default();
        opening.bytes(b"GETx");
        assert_eq!(opening.unreadable_line(), None);
    }

    #[test]
    fn a_tls_hello_is_known_by_its_first_two_bytes() {
        assert_eq!(Opening::default().bytes(b"\x16\x03\x01\x02\x00"), Some(Foreign::Tls));
        let mut opening = Opening::default();
        assert_eq!(opening.bytes(b"\x16"), None);
        assert_eq!(opening.bytes(b"\x03"), Some(Foreign::Tls));
        assert_eq!(Opening::default().bytes(b"\x16ping\r\n"), None);
        assert_eq!(Opening::default().bytes(b"pub\x16\x03"), None);
    }
}
