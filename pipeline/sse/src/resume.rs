//! The event id to resume after.

use std::sync::Arc;

use reqwest::header::HeaderValue;

/// The longest id that is sent, in bytes. Servers answer headers of some kilobytes more with a 4xx, which would stop the
/// client for good.
const MAX_ID_BYTES: usize = 4096;

/// The last event id, and the newest one that fits into a `Last-Event-ID` header.
///
/// The standard allows control characters in an id that HTTP does not allow in a header. Resuming without an id would leave a gap.
/// Resuming after an older id only repeats events, and these are recognised by their ids.
#[derive(Debug)]
pub(super) struct Resume {
    last: Arc<str>,
    sendable: Arc<str>,
}

impl Resume {
    /// Resumes after `last_event_id`, or after the earlier id `sendable` if a header cannot carry the former.
    pub(super) fn new(last_event_id: &Arc<str>, sendable: &str) -> Self {
        let sendable = if is_sendable(sendable) { sendable } else { "" };
        let mut resume = Self { last: Arc::from(""), sendable: Arc::from(sendable) };
        resume.observe(last_event_id);
        resume
    }

    /// The newest id that a header can carry; empty: none.
    pub(super) fn sendable(&self) -> &str {
        &self.sendable
    }

    /// Records the last event id. An empty one means that the server reset it.
    pub(super) fn observe(&mut self, id: &Arc<str>) {
        if Arc::ptr_eq(&self.last, id) {
            return;
        }
        self.last = Arc::clone(id);
        if is_sendable(id) {
            self.sendable = Arc::clone(id);
        }
    }

    /// Whether the header has an older id than the last one, or none.
    pub(super) fn is_behind(&self) -> bool {
        self.last != self.sendable
    }

    /// The header to send, if any: the id's UTF-8 bytes, as the standard requires.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        (!self.sendable.is_empty()).then(|| HeaderValue::from_bytes(self.sendable.as_bytes()).ok()).flatten()
    }
}

/// Whether HTTP allows `id` as a header value (RFC 9110, 5.5), and servers accept it.
fn is_sendable(id: &str) -> bool {
    id.len() <= MAX_ID_BYTES && id.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(resume: &Resume) -> Option<Vec<u8>> {
        resume.header().map(|value| value.as_bytes().to_vec())
    }

    #[test]
    fn an_unsendable_id_leaves_the_one_before_it() {
        let mut resume = Resume::new(&Arc::from("7"), "");
        resume.observe(&Arc::from("8\u{1}"));
        assert!(resume.is_behind());
        assert_eq!(sent(&resume), Some(b"7".to_vec()));
        resume.observe(&Arc::from("x".repeat(MAX_ID_BYTES + 1)));
        assert_eq!(sent(&resume), Some(b"7".to_vec()));
        resume.observe(&Arc::from("9"));
        assert!(!resume.is_behind());
        assert_eq!(sent(&resume), Some(b"9".to_vec()));
    }

    #[test]
    fn an_empty_id_is_not_sent_and_another_alphabet_is() {
        let mut resume = Resume::new(&Arc::from(""), "");
        assert_eq!(sent(&resume), None);
        resume.observe(&Arc::from("日本"));
        assert_eq!(sent(&resume), Some("日本".as_bytes().to_vec()));
        resume.observe(&Arc::from(""));
        assert_eq!(sent(&resume), None);
        assert!(!resume.is_behind());
    }

    #[test]
    fn a_sendable_id_is_a_valid_header_value() {
        for byte in 0..=0x7F_u8 {
            let id = format!("a{}b", char::from(byte));
            assert_eq!(is_sendable(&id), HeaderValue::from_bytes(id.as_bytes()).is_ok(), "{id:?}");
        }
    }
}
