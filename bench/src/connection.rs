//! A socket with its buffers. It blocks only while it is being opened.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memchr;

use crate::Error;

/// The minimum and maximum number of bytes a connection reads at a time.
const READ: (usize, usize) = (16 * 1024, 256 * 1024);

/// The time limit for each answer of a server while a connection is opened.
const PATIENCE: Duration = Duration::from_secs(30);

/// A non-blocking connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    from: usize,
    to: usize,
    /// Bytes waiting to be written.
    pub(crate) out: Vec<u8>,
    written: usize,
}

impl Connection {
    /// Creates a connection that reads about `read` bytes at a time.
    pub(crate) fn new(stream: TcpStream, received: &[u8], read: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut input = vec![0; read.clamp(READ.0, READ.1).max(received.len() * 2)];
        input[..received.len()].copy_from_slice(received);
        Ok(Self { stream, input, from: 0, to: received.len(), out: Vec::new(), written: 0 })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The bytes read but not yet consumed, and the output buffer.
    pub(crate) fn parts(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.input[self.from..self.to], &mut self.out)
    }

    /// Discards the first `count` bytes of the input.
    pub(crate) fn used(&mut self, count: usize) {
        self.from += count;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
    }

    /// Reads the available bytes, up to one buffer. Returns whether any arrived.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        if self.to == self.input.len() {
            self.input.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            if self.to == self.input.len() {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
        match self.stream.read(&mut self.input[self.to..]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(count) => {
                self.to += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes as much as the socket accepts. Returns whether that was all of it.
    pub(crate) fn write(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(true)
    }

    pub(crate) fn is_writing(&self) -> bool {
        !self.out.is_empty()
    }
}

/// A connection that is being opened. It blocks until each answer arrives.
#[derive(Debug)]
pub struct Opening {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Opening {
    /// Connects.
    ///
    /// # Errors
    /// Nothing listens at `addr`.
    pub fn connect(addr: SocketAddr) -> Result<Self, Error> {
        let what = || format!("cannot connect to {addr}");
        let stream = TcpStream::connect(addr).map_err(Error::io(what()))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        set.and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(Error::io(what()))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Connects to a server that is still starting, and retries until `limit` has passed.
    ///
    /// # Errors
    /// Nothing listened at `addr` within `limit`.
    pub fn connect_within(addr: SocketAddr, limit: Duration) -> Result<Self, Error> {
        let began = Instant::now();
        loop {
            match Self::connect(addr) {
                Err(_) if began.elapsed() < limit => std::thread::sleep(Duration::from_millis(2)),
                result => return result,
            }
        }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).map_err(Error::io("cannot send to the server"))
    }

    /// Waits until `take` finds a result in the input. `take` returns the result and the number of bytes it consumed.
    ///
    /// # Errors
    /// The connection is closed, or `take` returned an error.
    pub fn receive<T>(&mut self, mut take: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, Error>) -> Result<T, Error> {
        loop {
            if let Some((found, used)) = take(&self.input)? {
                self.input.drain(..used);
                return Ok(found);
            }
            let mut chunk = [0; 16 * 1024];
            let count = self.stream.read(&mut chunk).map_err(Error::io("no answer from the server"))?;
            if count == 0 {
                return Err(Error::Protocol("the server closed the connection".to_owned()));
            }
            self.input.extend_from_slice(&chunk[..count]);
        }
    }

    /// The next line, without its ending.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn line(&mut self) -> Result<String, Error> {
        self.receive(|input| {
            let end = memchr(b'\n', input);
            Ok(end.map(|end| (String::from_utf8_lossy(&input[..end]).trim_end().to_owned(), end + 1)))
        })
    }

    /// Sends a line and returns the answering line.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn ask(&mut self, line: &str) -> Result<String, Error> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.line()
    }

    /// The socket and the bytes already read from it.
    #[must_use]
    pub fn done(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.input)
    }
}
