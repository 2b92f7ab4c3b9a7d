//! `examples/browser.html` in a real browser.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod driver;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use driver::Browser;
use herald_tests::{TestBroker, publish};
use rustix::process::Signal;
use serde_json::json;

/// Serves the page as any web server would.
fn serve_page() -> SocketAddr {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/browser.html")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let page = page.clone();
            // A browser opens connections ahead of what it asks for: one of them must not keep the others waiting.
            std::thread::spawn(move || answer(stream, &page));
        }
    });
    addr
}

fn answer(mut stream: TcpStream, page: &str) {
    let head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let _the_request = head.take_while(|line| !line.is_empty()).count();
    let _the_browser_may_have_gone = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
}

const STATE: &str = "return document.getElementById('state').textContent";
const EVENTS: &str = "return [...document.querySelectorAll('#events li')].map(item => item.textContent)";

#[test]
#[cfg_attr(not(browser), ignore = "there is no Chromium: .ci/browser installs it")]
fn a_page_gets_the_most_urgent_event_first_acknowledges_and_is_told_of_the_end() {
    let mut broker = TestBroker::start("[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n");
    let page = serve_page();
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

    // A page of another host does not get in: the same machine by another name is another host.
    broker.run();
    browser.open(&format!("http://localhost:{}/browser.html?{query}", page.port()));
    browser.wait_for(STATE, &json!("closed: 1006 "));
}
