//! `examples/browser.html` and the browser client in a real browser.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod driver;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use driver::Browser;
use herald_tests::{TestBroker, publish};
use rustix::process::Signal;
use serde_json::json;

/// A file on a web server: its path, type and content.
type File = (&'static str, &'static str, String);

fn example(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Serves files like any web server.
fn serve(files: Vec<File>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let files = files.clone();
            // A browser opens connections in advance; one of them must not block the others.
            std::thread::spawn(move || answer(stream, &files));
        }
    });
    addr
}

fn answer(mut stream: TcpStream, files: &[File]) {
    let head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let head: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
    let wanted = head.first().and_then(|request| request.split([' ', '?']).nth(1)).unwrap_or_default();
    let (status, kind, content) = match files.iter().find(|(path, ..)| *path == wanted) {
        Some((_, kind, content)) => ("200 OK", *kind, content.as_str()),
        None => ("404 Not Found", "text/plain", "there is no such file"),
    };
    let _the_browser_may_have_gone = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{content}",
        content.len()
    );
}

const STATE: &str = "return document.getElementById('state').textContent";
const EVENTS: &str = "return [...document.querySelectorAll('#events li')].map(item => item.textContent)";

#[test]
#[cfg_attr(not(browser), ignore = "there is no Chromium: .ci/browser installs it")]
fn a_page_gets_the_most_urgent_event_first_acknowledges_it_and_notices_the_end() {
    let mut broker = TestBroker::start("[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n");
    let page = serve(vec![("/browser.html", "text/html", example("browser.html"))]);
    let mut telnet = broker.telnet();
    telnet.asks("sub tweets inbox", "successfully subscribed to topic tweets");
    telnet.asks("detach tweets", "detached from topic tweets");
    for (id, priority) in [("a", 1), ("b", 3), ("c", 2)] {
        telnet.send(&publish("tweets", id, priority));
    }
    telnet.asks("ping", "pong");

    let browser = Browser::start();
    let query = format!("server=ws://{}/ws&topic=tweets&name=inbox", broker.addr_of("ws"));
    browser.open(&format!("http://{page}/browser.html?{query}"));
    browser.wait_for(EVENTS, &json!(["3: \"m\"", "2: \"m\"", "1: \"m\""]));
    broker.wait_for_figures("tweets", &[("acknowledged", 3), ("waiting", 0), ("in_flight", 0)]);
    telnet.send("pub tweets {\"id\":\"d\",\"msg\":{\"text\":\"grüße\"}}");
    browser
        .wait_for("return document.querySelector('#events').lastChild.textContent", &json!("0: {\"text\":\"grüße\"}"));
    broker.wait_for_figures("tweets", &[("acknowledged", 4)]);

    broker.signal(Signal::TERM);
    browser.wait_for(STATE, &json!("closed: 1001 the broker is stopping"));
    assert!(broker.wait().success());

    // A page of another host is refused, even if the name belongs to the same machine.
    broker.run();
    browser.open(&format!("http://localhost:{}/browser.html?{query}", page.port()));
    browser.wait_for(STATE, &json!("closed: 1006 "));
}

const CLIENT: &str = r#"<!doctype html><script type="module">
  import { Herald } from "/herald.mjs";
  import { run } from "/consume.mjs";
  const url = new URLSearchParams(location.search).get("server");
  const said = window.said = [];
  try {
    await run(await Herald.connect(url, { token: "s3cret" }), (line) => said.push(line));
    await Herald.connect(url, { token: "wrong" }).catch((error) => said.push(error.message));
  } catch (error) {
    said.push(String(error));
  }
</script>"#;

#[test]
#[cfg_attr(not(browser), ignore = "there is no Chromium: .ci/browser installs it")]
fn events_confirmed_to_a_pages_client_survive_kills_of_the_broker() {
    let mut broker = TestBroker::start(
        "[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n\
         [auth]\ntokens = [{ token = \"s3cret\", name = \"page\", publish = [\"*\"], subscribe = [\"*\"] }]\n",
    );
    let page = serve(vec![
        ("/", "text/html", CLIENT.to_owned()),
        ("/herald.mjs", "text/javascript", example("clients/herald.mjs")),
        ("/consume.mjs", "text/javascript", include_str!("../example_clients/consume.mjs").to_owned()),
    ]);
    let browser = Browser::start();
    browser.open(&format!("http://{page}/?server=ws://{}/ws", broker.addr_of("ws")));
    for kills in 1..=2 {
        browser.wait_for(&format!("return window.said?.length >= {kills}"), &json!(true));
        broker.kill();
        broker.run();
    }
    let expected = json!([
        "consuming",
        "consuming",
        "consumed",
        "error: event is not of an accepted format: priority must be an integer from -2147483648 to 2147483647",
        "error: invalid topic name \"not/a/name\": a name is made of A-Z a-z 0-9 . _ : -",
        "error: authentication failed",
    ]);
    browser.wait_for("return window.said.length >= 6", &json!(true));
    browser.wait_for("return window.said", &expected);
}
