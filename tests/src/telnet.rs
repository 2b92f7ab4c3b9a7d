//! A client that sees every line as it arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::PATIENCE;

/// A raw connection to a broker.
pub struct Telnet {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The id in a delivery.
#[must_use]
pub fn id_of(line: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no delivery: {line:?}"));
    event["id"].as_str().expect("an id is a string").to_owned()
}

impl Telnet {
    /// Connects and receives the greeting.
    #[must_use]
    pub fn connect(addr: SocketAddr) -> Self {
        let mut telnet = Self::connect_raw(addr);
        telnet.expect("Successfully connected to message_broker");
        telnet
    }

    /// Connects without waiting for the greeting.
    #[must_use]
    pub fn connect_raw(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends raw bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a line.
    pub fn send(&mut self, line: &str) {
        self.send_raw(format!("{line}\r\n").as_bytes());
    }

    /// The next line; it must end with CRLF. `None` if the connection is closed.
    pub fn try_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                let line = String::from_utf8(line).expect("the broker speaks UTF-8");
                return Some(line.strip_suffix("\r\n").expect("a line ends with CRLF").to_owned());
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.buffer.is_empty(), "half a line: {:?}", String::from_utf8_lossy(&self.buffer));
                    return None;
                }
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                // A process that is stopped and continued sees this on a socket with a time-out.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
    }

    /// The next line.
    pub fn line(&mut self) -> String {
        self.try_line().expect("the connection is open")
    }

    /// Receives the next line, which must be this one.
    #[track_caller]
    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Receives the next lines, which must be these.
    #[track_caller]
    pub fn expect_all<L: AsRef<str>>(&mut self, lines: &[L]) {
        for line in lines {
            assert_eq!(self.line(), line.as_ref());
        }
    }

    /// Sends a line and returns the answer.
    #[must_use]
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.line()
    }

    /// Sends a line that must be answered with this one.
    #[track_caller]
    pub fn asks(&mut self, line: &str, answer: &str) {
        self.send(line);
        assert_eq!(self.line(), answer, "the answer to {line:?}");
    }

    /// Checks that no line has arrived and none arrives soon. Anything under way in the broker would arrive within milliseconds.
    #[track_caller]
    pub fn nothing(&mut self) {
        for pause in [0, 60] {
            std::thread::sleep(Duration::from_millis(pause));
            self.send("ping");
            assert_eq!(self.line(), "pong", "no line was expected");
        }
    }

    /// Receives lines until the connection is closed.
    #[must_use]
    pub fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.try_line()).collect()
    }

    /// Closes the sending half of the connection.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
