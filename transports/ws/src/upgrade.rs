//! The HTTP request that begins a WebSocket, read and answered here, so that whoever calls wrongly gets an answer that says
//! what is wrong; a browser's user sees it where the page's script sees only a failure.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use broker_core::protocol::foreign::Opening;
use bytes::{Buf as _, BytesMut};
use httparse::{EMPTY_HEADER, Request, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use transport_net::{OpenError, Stream, linger};

use crate::config::WsConfig;
use crate::origin;

/// The most bytes of a request; browsers send about one KiB, cookies included.
const MAX_HEAD: usize = 8 * 1024;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// A refusal: status line, further headers, and a text for people.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: &'static str,
    headers: &'static str,
    text: Cow<'static, str>,
}

impl Refusal {
    fn new(status: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, headers: "", text: text.into() }
    }
}

/// Reads the request and answers it. What is returned came after it already.
pub(crate) async fn upgrade(stream: &mut Stream, config: &WsConfig) -> Result<BytesMut, OpenError> {
    let mut head = BytesMut::with_capacity(1024);
    let judged = loop {
        // `take`: what a client sends ahead of the answer must not make the buffer grow either.
        let room = MAX_HEAD + 1 - head.len();
        if (&mut *stream).take(room as u64).read_buf(&mut head).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // Told in plain text it would not understand.
        if let Some(foreign) = Opening::default().bytes(&head) {
            return Err(OpenError::Foreign(foreign));
        }
        match judge(&head, config) {
            Ok(None) if head.len() <= MAX_HEAD => {}
            Ok(None) => {
                break Err(Refusal::new("431 Request Header Fields Too Large", "the request exceeds 8192 bytes"));
            }
            Ok(Some(accepted)) => break Ok(accepted),
            Err(refusal) => break Err(refusal),
        }
    };
    match judged {
        Ok((length, answer)) => {
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
            head.advance(length);
            Ok(head)
        }
        Err(Refusal { status, headers, text }) => {
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{text}\n",
                text.len() + 1
            );
            stream.write_all(answer.as_bytes()).await?;
            linger(stream, Duration::from_millis(50)).await;
            Err(OpenError::Refused(text))
        }
    }
}

/// Judges the bytes so far: `None` if the request is incomplete, else its length and the answer that accepts it.
fn judge(head: &[u8], config: &WsConfig) -> Result<Option<(usize, String)>, Refusal> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(head) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new("431 Request Header Fields Too Large", "the request exceeds 64 headers"));
        }
        Err(error) => return Err(Refusal::new("400 Bad Request", format!("this is no HTTP request: {error}"))),
    };
    if request.method != Some("GET") {
        return Err(Refusal {
            headers: "Allow: GET\r\n",
            ..Refusal::new("405 Method Not Allowed", "a WebSocket begins with GET")
        });
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some(&config.path) {
        return Err(Refusal::new(
            "404 Not Found",
            format!("there is nothing here: the WebSocket is at {}", config.path),
        ));
    }
    if request.version != Some(1)
        || !has_word(&request, "upgrade", "websocket")
        || !has_word(&request, "connection", "upgrade")
    {
        return Err(Refusal {
            headers: "Upgrade: websocket\r\n",
            ..Refusal::new("426 Upgrade Required", "this is a WebSocket: connect to it with ws:// or wss://")
        });
    }
    if one(&request, "sec-websocket-version")? != Some("13") {
        return Err(Refusal {
            headers: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ..Refusal::new("426 Upgrade Required", "only version 13 of WebSocket is spoken")
        });
    }
    let host = one(&request, "host")?;
    if let Some(origin) = one(&request, "origin")?
        && !origin::allowed(origin, host, &config.allowed_origins)
    {
        return Err(Refusal::new(
            "403 Forbidden",
            "pages of this origin may not connect: transports.ws.allowed_origins lists those that may",
        ));
    }
    // 16 bytes in base64.
    let key = one(&request, "sec-websocket-key")?.filter(|key| key.len() == 24);
    let key = key.ok_or_else(|| Refusal::new("400 Bad Request", "there is no valid Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(Some((length, answer)))
}

fn values<'a>(request: &'a Request<'_, '_>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Whether `word` is in the lists of a header, of which there may be several.
fn has_word(request: &Request<'_, '_>, name: &str, word: &str) -> bool {
    values(request, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// The value of a header that is there once, or not at all. Twice would leave it open which one another server looks at.
fn one<'a>(request: &'a Request<'_, '_>, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut all = values(request, name);
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match std::str::from_utf8(value) {
            Ok(text) => Ok(Some(text.trim())),
            Err(_) => Err(Refusal::new("400 Bad Request", format!("the header {name} is not text"))),
        },
        (Some(_), Some(_)) => Err(Refusal::new("400 Bad Request", format!("the header {name} is there twice"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /ws?x HTTP/1.1\r\nHost: h:8001\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn status(request: &str) -> String {
        match judge(request.as_bytes(), &WsConfig::default()) {
            Ok(None) => "incomplete".to_owned(),
            Ok(Some((length, answer))) => {
                assert_eq!(length, request.len());
                answer.split("\r\n").next().unwrap_or_default().to_owned()
            }
            Err(refusal) => refusal.status.to_owned(),
        }
    }

    #[test]
    fn the_accepting_answer_is_that_of_the_standard() {
        let (_, answer) = judge(GOOD.as_bytes(), &WsConfig::default()).unwrap().unwrap();
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    }

    #[test]
    fn a_request_is_waited_for_however_it_is_split() {
        for end in 0..GOOD.len() {
            assert_eq!(status(&GOOD[..end]), "incomplete", "{end}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_the_status() {
        for (from, to, expected) in [
            ("", "", "HTTP/1.1 101 Switching Protocols"),
            ("\r\n\r\n", "\r\nOrigin: http://h\r\n\r\n", "HTTP/1.1 101 Switching Protocols"),
            ("GET", "POST", "405 Method Not Allowed"),
            ("/ws", "/", "404 Not Found"),
            ("/ws", "/wss", "404 Not Found"),
            ("keep-alive, Upgrade", "close", "426 Upgrade Required"),
            ("WebSocket\r\n", "h2c\r\n", "426 Upgrade Required"),
            ("HTTP/1.1", "HTTP/1.0", "426 Upgrade Required"),
            (": 13", ": 8", "426 Upgrade Required"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", "400 Bad Request"),
            ("\r\n\r\n", "\r\nOrigin: http://evil\r\n\r\n", "403 Forbidden"),
            ("\r\n\r\n", "\r\nOrigin: http://h\r\nOrigin: http://evil\r\n\r\n", "400 Bad Request"),
            ("\r\n\r\n", "\r\nHost: evil\r\n\r\n", "400 Bad Request"),
            ("GET ", "\u{16}\u{3}\u{1}", "400 Bad Request"),
        ] {
            assert_eq!(status(&GOOD.replacen(from, to, 1)), expected, "{from} -> {to}");
        }
        let many = format!("GET /ws HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(status(&many), "431 Request Header Fields Too Large");
    }
}
