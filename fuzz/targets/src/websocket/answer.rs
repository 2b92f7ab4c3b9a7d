//! The output of a WebSocket server: an answer to the request, and frames behind it.

use super::MAX_LINE;
use crate::session::said::Said;

/// The refusals of a request that the transport knows.
const REFUSALS: [&str; 7] = ["400", "403", "404", "405", "426", "431", "503"];

/// The close codes that the broker sends of its own accord.
const CODES: [u16; 9] = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1013];

/// All that came. `own_close`: the client may have closed with a code of its own, which comes back.
pub(super) fn check(received: &[u8], own_close: bool) {
    if received.is_empty() {
        // The request was not complete.
        return;
    }
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer has an end") + 4;
    let head = std::str::from_utf8(&received[..end]).expect("an answer is text");
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("an answer has a status");
    if status != "101" {
        assert!(REFUSALS.contains(&status), "{head}");
        let body = std::str::from_utf8(&received[end..]).expect("a refusal is text");
        let length = format!("Content-Length: {}\r\n", body.len());
        assert!(head.contains(&length) && body.ends_with('\n'), "a refusal says what is wrong: {head}{body}");
        return;
    }
    frames(&received[end..], own_close);
}

fn frames(mut bytes: &[u8], own_close: bool) {
    let mut said = Said::to_whom_it_may_concern(MAX_LINE);
    // The beginning of a message whose end has not come.
    let mut message: Option<Vec<u8>> = None;
    let mut closed = false;
    while !bytes.is_empty() {
        assert!(!closed, "nothing comes after the close");
        let [first, second, rest @ ..] = bytes else { panic!("half of a header: {bytes:?}") };
        assert_eq!(first & 0x70, 0, "no extension is agreed on");
        assert!(second & 0x80 == 0, "a server does not mask");
        let (header, len) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (2, usize::from(u16::from_be_bytes([*a, *b]))),
            (127, _) => panic!("no frame is that long"),
            (len, _) => (0, usize::from(len)),
        };
        let payload = rest.get(header..header + len).expect("the last frame is whole");
        bytes = &rest[header + len..];
        let last = first & 0x80 != 0;
        match first & 0x0f {
            1 => {
                assert!(message.is_none(), "a message begins within another");
                message = Some(payload.to_vec());
            }
            0 => message.as_mut().expect("a message that goes on has begun").extend_from_slice(payload),
            8 => {
                closed = true;
                close(payload, own_close);
            }
            10 => assert!(last && len < 126, "a pong is one short frame"),
            opcode => panic!("the broker has no use for opcode {opcode}"),
        }
        if last && first & 0x0f <= 1 {
            let mut line = message.take().expect("it has just been there");
            assert!(!line.contains(&b'\n'), "a message is a line without its ending");
            line.extend_from_slice(b"\r\n");
            said.broker(&line);
        }
    }
}

fn close(payload: &[u8], own_close: bool) {
    match payload {
        [] => assert!(own_close, "a close has a code"),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            assert!(CODES.contains(&code) || own_close, "the broker closes with {code}");
            assert!(std::str::from_utf8(reason).is_ok() && payload.len() < 126, "a reason is a short text");
        }
        [_] => panic!("half of a close code"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wrong(frames: &[u8]) -> bool {
        let received = [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", frames].concat();
        std::panic::catch_unwind(|| check(&received, false)).is_err()
    }

    #[test]
    fn what_no_server_sends_is_found() {
        assert!(!is_wrong(b"\x81\x04pong\x88\x02\x03\xe8"));
        assert!(!is_wrong(b"\x01\x02po\x80\x02ng"));
        for frames in [
            &b"\x81\x84\0\0\0\0pong"[..],
            b"\xc1\x04pong",
            b"\x81\x05pong",
            b"\x82\x04pong",
            b"\x80\x04pong",
            b"\x81\x06pong\r\n",
            b"\x81\x04pang",
            b"\x88\x02\x03\xf2",
            b"\x88\x00",
            b"\x88\x02\x03\xe8\x81\x04pong",
        ] {
            assert!(is_wrong(frames), "{frames:?}");
        }
    }
}
