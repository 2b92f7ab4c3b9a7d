//! The close codes, and their reasons.

use std::borrow::Cow;

use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use transport_net::Ended;

/// The most bytes of a reason: a control frame has 125, and two are the code's.
const MAX_REASON: usize = 123;

/// A code and its reason, cut to what fits.
pub(crate) fn frame(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> CloseFrame {
    let reason = reason.into();
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    CloseFrame { code, reason: reason[..end].to_owned().into() }
}

/// The close frame for a connection that ends for a reason outside the WebSocket protocol.
pub(crate) fn of(why: &Ended) -> CloseFrame {
    let code = match why {
        Ended::ByClient => return frame(CloseCode::Normal, "bye"),
        Ended::Shutdown => CloseCode::Away,
        Ended::EngineGone | Ended::Full(_) => CloseCode::Again,
        Ended::Idle(_) | Ended::TurnedAway => CloseCode::Policy,
        _ => CloseCode::Error,
    };
    frame(code, why.to_string())
}

/// The close frame for a client that violates the protocol.
pub(crate) fn of_error(error: &Error, max_message_bytes: usize) -> CloseFrame {
    match error {
        Error::Capacity(_) => too_long(max_message_bytes),
        Error::Utf8(_) => frame(CloseCode::Invalid, "a message is not valid UTF-8"),
        error => frame(CloseCode::Protocol, error.to_string()),
    }
}

/// The close frame for a message with too many bytes.
pub(crate) fn too_long(max_message_bytes: usize) -> CloseFrame {
    frame(CloseCode::Size, format!("message exceeds {max_message_bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = frame(CloseCode::Protocol, "ä".repeat(100));
        assert_eq!(frame.reason.as_str(), "ä".repeat(61));
    }
}
