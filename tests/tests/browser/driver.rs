//! A headless Chromium, controlled over HTTP through its own driver.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use herald_tests::PATIENCE;
use serde_json::{Value, json};

/// A browser with one page.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let mut driver =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = said
            .filter_map(|line| line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok())
            .next()
            .expect("the driver prints its address");
        let mut browser = Self { driver, port, session: String::new() };
        // The sandbox needs privileges that containers lack, and the browser only shows our own page.
        let options = json!({"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]});
        let capabilities = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let session = browser.request("POST", "/session", &capabilities);
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    pub(crate) fn open(&self, url: &str) {
        self.request("POST", &format!("/session/{}/url", self.session), &json!({ "url": url }));
    }

    /// Runs a script and returns its result.
    pub(crate) fn run(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.request("POST", &format!("/session/{}/execute/sync", self.session), &body)
    }

    /// Waits until the script returns `expected`.
    #[track_caller]
    pub(crate) fn wait_for(&self, script: &str, expected: &Value) {
        let began = Instant::now();
        loop {
            let found = self.run(script);
            if found == *expected {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{script}: {found}, expected {expected}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        // The driver does not always close the connection, so the announced length counts.
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer["value"].get("error").is_none(), "{path}: {}", answer["value"]);
        answer["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser, which would otherwise outlive a failed test.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _it_is_the_end = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _it_is_the_end =
                write!(stream, "DELETE /session/{} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", self.session, self.port);
            let _it_is_the_end = stream.read(&mut [0; 1024]);
        }
        let _it_has_ended = self.driver.kill();
        let _it_is_reaped = self.driver.wait();
    }
}
