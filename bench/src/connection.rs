//! A socket with its buffers: never waits, except while it is being opened.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memchr;

use crate::Error;

/// Bytes that a connection reads at a time, at least and at most.
const READ: (usize, usize) = (16 * 1024, 256 * 1024);

/// How long a server may take to answer while a connection is opened.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that never waits.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    from: usize,
    to: usize,
    /// What is to be written.
    pub(crate) out: Vec<u8>,
    written: usize,
}

impl Connection {
    /// `read`: how many bytes it should read at a time.
    pub(crate) fn new(stream: TcpStream, received: &[u8], read: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut input = vec![0; read.clamp(READ.0, READ.1).max(received.len() * 2)];
        input[..received.len()].copy_from_slice(received);
        Ok(Self { stream, input, from: 0, to: received.len(), out: Vec::new(), written: 0 })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What has been read and not been used, and where an answer goes.
    pub(crate) fn parts(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.input[self.from..self.to], &mut self.out)
    }

    /// Lets go of the first `count` bytes of it.
    pub(crate) fn used(&mut self, count: usize) {
        self.from += count;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
    }

    /// Reads what is there, up to a buffer full; whether something came.
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

    /// Writes what the socket takes; whether that was all.
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

/// A connection that is being opened: waits for each answer.
#[derive(Debug)]
pub struct Opening {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Opening {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(addr: SocketAddr) -> Result<Self, Error> {
        let what = || format!("cannot connect to {addr}");
        let stream = TcpStream::connect(addr).map_err(Error::io(what()))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        set.and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(Error::io(what()))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// The same, for a server that is only starting.
    ///
    /// # Errors
    /// Nobody has listened there for so long.
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
    /// The connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).map_err(Error::io("cannot send to the server"))
    }

    /// Waits until `take` finds what it looks for in what has come; it says how many bytes that took.
    ///
    /// # Errors
    /// The connection is gone, or `take` has found an error.
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
    /// The connection is gone.
    pub fn line(&mut self) -> Result<String, Error> {
        self.receive(|input| {
            let end = memchr(b'\n', input);
            Ok(end.map(|end| (String::from_utf8_lossy(&input[..end]).trim_end().to_owned(), end + 1)))
        })
    }

    /// Sends a line and takes the one that comes back.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ask(&mut self, line: &str) -> Result<String, Error> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.line()
    }

    /// The socket, and what has been read from it.
    #[must_use]
    pub fn done(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.input)
    }
}
