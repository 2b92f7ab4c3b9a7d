use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    addr: std::net::SocketAddr,
    screen: Screen,
    start: CancellationToken,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (screen, start, stop) = (Screen::new(), CancellationToken::new(), CancellationToken::new());
    let task = tokio::spawn(serve(listener, screen.clone(), start.clone(), stop.clone()));
    Served { addr, screen, start, stop, task }
}

struct Telnet(BufReader<TcpStream>);

impl Telnet {
    async fn connect(addr: std::net::SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(addr).await.unwrap()))
    }

    async fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.unwrap().unwrap();
        line
    }

    async fn expect(&mut self, line: &str) {
        assert_eq!(self.line().await, line);
    }
}

#[tokio::test]
async fn a_person_types_twitter_and_sees_tweets() {
    let served = start().await;
    let mut first = Telnet::connect(served.addr).await;
    first.expect("Type `twitter` to start processing SSE (from Twitter API)\r\n").await;
    first.send("hello\r\n\r\ntwit").await;
    first.expect("[Command] run :other\r\n").await;
    first.expect("[Command] run :other\r\n").await;
    assert!(!served.start.is_cancelled());
    first.send("ter\r\n").await;
    first.expect("[Command] run :twitter\r\n").await;
    timeout(PATIENCE, served.start.cancelled()).await.unwrap();
    let mut second = Telnet::connect(served.addr).await;
    second.expect(GREETING).await;
    second.send("twitter\ntwitter\n").await;
    second.expect("[Command] run :twitter\r\n").await;
    second.expect("[Command] run :twitter\r\n").await;
    served.screen.show(3, "two\r\nlines\u{7}and\u{2028}more");
    for console in [&mut first, &mut second] {
        console.expect("tweet: worker-3 two lines and more\r\n").await;
    }
    served.screen.show(4, "once");
    second.expect("tweet: worker-4 once\r\n").await;
    served.stop.cancel();
    timeout(PATIENCE, served.task).await.unwrap().unwrap();
    assert_eq!(second.line().await, "", "the connection has ended");
}

#[tokio::test]
async fn a_slow_console_loses_lines_and_is_told_how_many() {
    let served = start().await;
    let mut console = Telnet::connect(served.addr).await;
    console.expect(GREETING).await;
    console.send("twitter\n").await;
    console.expect("[Command] run :twitter\r\n").await;
    while served.screen.lines.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    // Without a pause, so that the console's task does not run.
    let shown = MAX_BEHIND + 500;
    for n in 0..shown {
        served.screen.show(1, &n.to_string());
    }
    console.expect("(500 tweets are not shown: this console reads too slowly)\r\n").await;
    for n in 500..shown {
        console.expect(&format!("tweet: worker-1 {n}\r\n")).await;
    }
}

#[tokio::test]
async fn bad_input_ends_a_console_and_no_other() {
    let served = start().await;
    let mut good = Telnet::connect(served.addr).await;
    good.expect(GREETING).await;
    let mut bad = Telnet::connect(served.addr).await;
    bad.expect(GREETING).await;
    bad.send(&"x".repeat(MAX_LINE + 1)).await;
    bad.expect("a line may have 1024 bytes\r\n").await;
    let mut consoles = Vec::new();
    for _ in 0..MAX_CONSOLES - 1 {
        let mut console = Telnet::connect(served.addr).await;
        loop {
            // The slot of the closed console becomes free a moment later.
            match console.line().await {
                line if line == GREETING => break,
                _ => console = Telnet::connect(served.addr).await,
            }
        }
        consoles.push(console);
    }
    let mut one_more = Telnet::connect(served.addr).await;
    one_more.expect("there are 64 consoles already\r\n").await;
    good.send("\u{ff}\u{fe} twitter \r\n").await;
    good.expect("[Command] run :other\r\n").await;
    good.send(" twitter \r\n").await;
    good.expect("[Command] run :twitter\r\n").await;
}

#[tokio::test]
async fn nothing_of_an_http_request_is_executed_and_telnet_is_answered() {
    let served = start().await;
    for request in ["POST / HTTP/1.1\r\nHost: localhost\r\n\r\ntwitter\r\n", "x: y\r\nHost: localhost\r\ntwitter\r\n"] {
        let mut http = Telnet::connect(served.addr).await;
        http.expect(GREETING).await;
        http.send(request).await;
        let mut said = String::new();
        timeout(PATIENCE, http.0.read_to_string(&mut said)).await.unwrap().unwrap();
        let end = "\r\n\r\nthis port speaks the tweet pipeline's console, not HTTP\r\n";
        assert!(said.contains("HTTP/1.1 400 Bad Request\r\n") && said.ends_with(end), "{said}");
        assert!(!served.start.is_cancelled());
    }
    let mut telnet = Telnet::connect(served.addr).await;
    telnet.expect(GREETING).await;
    telnet.0.get_mut().write_all(b"wrong\xff\xf4\xff\xfd\x06").await.unwrap();
    let mut mark = [0; 3];
    timeout(PATIENCE, telnet.0.read_exact(&mut mark)).await.unwrap().unwrap();
    assert_eq!(mark, *b"\xff\xfb\x06");
    telnet.send("twitter\r\0").await;
    telnet.expect("[Command] run :twitter\r\n").await;
}
