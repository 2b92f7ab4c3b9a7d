//! As much of AMQP 0-9-1 as a load needs: frames, the handshake, and the methods that publish, deliver and acknowledge.

use std::net::SocketAddr;

use bench::Error;
use bench::connection::Opening;

/// Class and method.
pub(crate) type Method = (u16, u16);

pub(crate) const CONFIRM_SELECT: Method = (85, 10);
pub(crate) const EXCHANGE_DECLARE: Method = (40, 10);
pub(crate) const QUEUE_DECLARE: Method = (50, 10);
pub(crate) const QUEUE_BIND: Method = (50, 20);
pub(crate) const BASIC_QOS: Method = (60, 10);
pub(crate) const BASIC_CONSUME: Method = (60, 20);
pub(crate) const BASIC_PUBLISH: Method = (60, 40);
pub(crate) const BASIC_DELIVER: Method = (60, 60);
pub(crate) const BASIC_ACK: Method = (60, 80);
const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const CHANNEL_OPEN: Method = (20, 10);

/// Kinds of frames.
pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;

/// The method that answers one: by convention the next number.
pub(crate) fn answer_of(method: Method) -> Method {
    (method.0, method.1 + 1)
}

/// A frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `input` and its length, if it is all there.
    pub(crate) fn take(input: &'a [u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((head, rest)) = input.split_at_checked(7) else { return Ok(None) };
        let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        match rest.get(len) {
            None => Ok(None),
            Some(0xCE) => Ok(Some((Self { kind: head[0], payload: &rest[..len] }, len + 8))),
            Some(_) => Err(Error::Protocol("a frame without an end".into())),
        }
    }

    /// The method and its arguments. A server that closes the channel or the connection says why.
    pub(crate) fn method(&self) -> Result<(Method, &'a [u8]), Error> {
        let number = |at: usize| Some(u16::from_be_bytes([*self.payload.get(at)?, *self.payload.get(at + 1)?]));
        let method = number(0).zip(number(2)).ok_or_else(|| Error::unexpected(self.payload))?;
        let arguments = &self.payload[4..];
        if method == (10, 50) || method == (20, 40) {
            return Err(Error::unexpected(arguments.get(3..).unwrap_or_default()));
        }
        Ok((method, arguments))
    }
}

/// A frame that is being written.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn frame(kind: u8, channel: u16, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.push(kind);
        out.extend_from_slice(&channel.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        Self { out, start }
    }

    pub(crate) fn method(channel: u16, method: Method, out: &'a mut Vec<u8>) -> Self {
        Self::frame(METHOD, channel, out).short(method.0).short(method.1)
    }

    pub(crate) fn byte(self, byte: u8) -> Self {
        self.out.push(byte);
        self
    }

    pub(crate) fn short(self, number: u16) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(crate) fn long(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(crate) fn longlong(self, number: u64) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(crate) fn name(self, text: &str) -> Self {
        // Names here are shorter than 256 bytes.
        self.byte(u8::try_from(text.len()).unwrap_or(u8::MAX)).bytes(text.as_bytes())
    }

    pub(crate) fn text(self, text: &[u8]) -> Self {
        self.long(u32::try_from(text.len()).unwrap_or(u32::MAX)).bytes(text)
    }

    /// Puts the frame's length where it belongs, and ends it.
    pub(crate) fn end(self) {
        let len = u32::try_from(self.out.len() - self.start - 7).unwrap_or(u32::MAX);
        self.out[self.start + 3..self.start + 7].copy_from_slice(&len.to_be_bytes());
        self.out.push(0xCE);
    }
}

/// An open channel, number 1.
pub(crate) struct Channel(Opening);

impl Channel {
    /// Connects as guest.
    pub(crate) fn open(addr: SocketAddr) -> Result<Self, Error> {
        let mut channel = Self(Opening::connect(addr)?);
        channel.0.send(b"AMQP\x00\x00\x09\x01")?;
        channel.wait(START)?;
        let mut out = Vec::new();
        Writer::method(0, START_OK, &mut out).long(0).name("PLAIN").text(b"\0guest\0guest").name("en_US").end();
        channel.0.send(&out)?;
        let tune = channel.wait(TUNE)?;
        let offered = tune.get(..6).ok_or_else(|| Error::unexpected(&tune))?;
        out.clear();
        // What it offers, without heartbeats.
        Writer::method(0, TUNE_OK, &mut out).bytes(offered).short(0).end();
        Writer::method(0, OPEN, &mut out).name("/").name("").byte(0).end();
        channel.0.send(&out)?;
        channel.wait(answer_of(OPEN))?;
        channel.call(CHANNEL_OPEN, |method| method.name(""))?;
        Ok(channel)
    }

    /// Calls a method, and waits for its answer.
    pub(crate) fn call(
        &mut self,
        method: Method,
        arguments: impl FnOnce(Writer<'_>) -> Writer<'_>,
    ) -> Result<(), Error> {
        let mut out = Vec::new();
        arguments(Writer::method(1, method, &mut out)).end();
        self.0.send(&out)?;
        self.wait(answer_of(method)).map(drop)
    }

    fn wait(&mut self, wanted: Method) -> Result<Vec<u8>, Error> {
        self.0.receive(|input| {
            let Some((frame, len)) = Frame::take(input)? else { return Ok(None) };
            let (method, arguments) = frame.method()?;
            if frame.kind != METHOD || method != wanted {
                return Err(Error::Protocol(format!("method {method:?} instead of {wanted:?}")));
            }
            Ok(Some((arguments.to_vec(), len)))
        })
    }

    /// The socket, and what has been read from it.
    pub(crate) fn done(self) -> (std::net::TcpStream, Vec<u8>) {
        self.0.done()
    }
}
