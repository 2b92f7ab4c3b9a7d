//! Output that waits to be written to a client. Small items are copied into one buffer; large payloads stay shared with the
//! other subscribers they go to.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};

use crate::engine::Delivery;
use crate::protocol::reply::LINE_END;

/// The size from which payloads are shared instead of copied. Below it a copy is cheaper than one more slice to write.
const SHARED: usize = 16 * 1024;

/// Room for the rest of a line beside its payload: the ending, and the redelivery count.
const LINE_ROOM: usize = 32;

/// Whether the payload is shared instead of copied.
fn is_shared(delivery: &Delivery) -> bool {
    delivery.redelivered == 0 && delivery.payload.len() >= SHARED
}

/// Bytes for a client, as a [`Buf`] of several pieces for one vectored write.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    pieces_len: usize,
}

impl Output {
    /// The buffer that text is appended to.
    pub fn text(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Reserves room for the lines of `deliveries` at once: growing step by step would copy the buffer again and again.
    pub fn make_room_for(&mut self, deliveries: &[Delivery]) {
        let copied = deliveries.iter().filter(|delivery| !is_shared(delivery));
        self.tail.reserve(copied.map(|delivery| delivery.payload.len() + LINE_ROOM).sum());
    }

    /// Appends a delivery's line.
    pub fn delivery(&mut self, delivery: &Delivery) {
        if is_shared(delivery) {
            self.end_piece();
            self.pieces_len += delivery.payload.len();
            self.pieces.push_back(delivery.payload.shared());
        } else {
            delivery.payload.write(delivery.redelivered, &mut self.tail);
        }
        self.tail.extend_from_slice(LINE_END);
    }

    fn end_piece(&mut self) {
        if !self.tail.is_empty() {
            self.pieces_len += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Frees the buffers of an empty output.
    pub fn shrink(&mut self) {
        if self.remaining() == 0 {
            *self = Self::default();
        }
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.pieces_len + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&self.tail[..], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut().filter(|_| count > 0) {
            let taken = count.min(piece.len());
            piece.advance(taken);
            self.pieces_len -= taken;
            count -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        self.tail.advance(count);
    }

    /// Avoids the copy where possible: part of a large payload stays shared.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        match self.pieces.front_mut() {
            Some(piece) if len <= piece.len() => {
                let part = piece.split_to(len);
                self.pieces_len -= len;
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                part
            }
            None if len <= self.tail.len() => self.tail.split_to(len).freeze(),
            _ => {
                let mut bytes = BytesMut::with_capacity(len);
                bytes.put(self.take(len));
                bytes.freeze()
            }
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let pieces = self.pieces.iter().map(|piece| &piece[..]).chain(tail);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Payload, Priority};

    #[test]
    fn pieces_come_out_in_order_however_they_are_taken() {
        let mut output = Output::default();
        let big = format!("\"{}\"", "x".repeat(SHARED));
        let payload = Payload::encode("t", Priority(0), &big, "big");
        output.text().extend_from_slice(b"first\r\n");
        output.delivery(&Delivery { payload: payload.clone(), redelivered: 0 });
        output.delivery(&Delivery { payload: payload.clone(), redelivered: 3 });
        output.text().extend_from_slice(b"last\r\n");
        let text = String::from_utf8(payload.bytes().to_vec()).unwrap();
        let again = text.replace(r#","id":"big"}"#, r#","id":"big","redelivered":3}"#);
        let expected = format!("first\r\n{text}\r\n{again}\r\nlast\r\n");
        assert_eq!(output.remaining(), expected.len());
        let mut slices = [IoSlice::new(&[]); 8];
        let count = output.chunks_vectored(&mut slices);
        let vectored: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(String::from_utf8(vectored).unwrap(), expected);
        let mut taken = Vec::new();
        for step in [1, 3, 5000, 20_000].into_iter().cycle() {
            let count = output.chunk().len().min(step);
            if count == 0 {
                break;
            }
            taken.extend_from_slice(&output.chunk()[..count]);
            output.advance(count);
        }
        assert_eq!(String::from_utf8(taken).unwrap(), expected);
        assert_eq!(output.remaining(), 0);
    }
}
