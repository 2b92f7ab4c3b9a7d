//! Values that have the right type but are invalid.

use super::*;

#[test]
fn settings_of_later_versions_are_refused_and_not_ignored() {
    let found = one("[engine.jetstream]\nurl = \"nats://h\"");
    let expected = "engine.jetstream: this version of Herald does not have this yet: remove the table";
    assert_eq!(found, format!("herald.toml: {expected}"));
}

#[test]
fn a_remote_broker_is_checked_and_its_token_is_not_shown() {
    let publish = |keys: &str| one(&format!("[publish]\n{keys}"));
    for (keys, expected) in [
        ("token = \"s3cret\"", "publish.token: this is for a broker elsewhere, and publish.to is \"local\""),
        ("to = \"h:8000\"", "publish.to: expected \"local\", or a broker as tcp://host:8000"),
        ("to = \"udp://h:8000\"", "publish.to: "),
        ("to = \"tcp://h:1\"\ntoken = \"\"", "publish.token: the token is empty"),
        (
            "to = \"tcp://h:1\"\ntoken = \"a\"\ntoken_env = \"B\"",
            "publish: expected one of token, token_file and token_env",
        ),
        ("to = \"tcp://h:1\"\ntoken_env = \"NOBODY_SETS_THIS\"", "publish.token_env: the environment variable"),
        ("to = \"tls://h:1\"\nca = \"/nowhere/ca.pem\"", "publish.ca: \"/nowhere/ca.pem\" cannot be read"),
        ("to = \"tcp://h:1\"\npath = \"\"", "publish.path: the path is empty"),
    ] {
        let found = publish(keys);
        assert!(found.starts_with(&format!("herald.toml: {expected}")) && !found.contains("s3cret"), "{keys}: {found}");
    }
}

#[test]
fn a_process_that_publishes_to_a_remote_broker_listens_only_where_configured() {
    let transports = |file: &str| {
        let loaded = good(file, &[], &[]);
        assert!(loaded.settings.remote.is_some());
        loaded.settings.transports.iter().map(|transport| transport.kind).collect::<Vec<_>>()
    };
    assert!(transports("[publish]\nto = \"tcp://h:1\"").is_empty());
    assert_eq!(transports("[publish]\nto = \"tcp://h:1\"\n[transports.ws]\nlisten = \"127.0.0.1:0\""), ["ws"]);
    assert_eq!(transports("[publish]\nto = \"tcp://h:1\"\n[transports.tcp]\nlisten = \"127.0.0.1:0\""), ["tcp"]);
}

#[test]
#[cfg(feature = "pipeline")]
fn invalid_pipelines_are_refused() {
    for (keys, said) in [
        ("streams = []", "pipeline.streams: expected at least one URL"),
        (
            "streams = [\"http://h/1\", \"http://h/2\", \"http://h/1\"]",
            "pipeline.streams: entries 1 and 3 are the same: each stream is read once",
        ),
        (
            "streams = [\"ftp://u:s3cret@h/1\"]",
            "pipeline.streams: entry 1: the SSE url cannot be used: the scheme is ftp, not http or https",
        ),
        (
            "console = \"here\"",
            "pipeline.console: \"here\" has no port: expected host:port, such as 127.0.0.1:8080, or \"\" for no console",
        ),
        (
            "console = \"\"",
            "pipeline.autostart: nothing starts the pipeline without a console: set pipeline.autostart = true, or give the console an address",
        ),
        ("workers = 70", "pipeline.max_workers: expected at least pipeline.workers, which is 70, found 64"),
        ("simulated_work_ms = [0, 60001]", "pipeline.simulated_work_ms: expected at most 60000, found 60001"),
        (
            "simulated_work_ms = [5, 1]",
            "pipeline.simulated_work_ms: expected two integers, the smaller first, such as [50, 500], found a list",
        ),
        ("hashtags_file = \"\"", "pipeline.hashtags_file: the path is empty: expected a file"),
        ("sink.path = \"\"", "pipeline.sink.path: the path is empty: expected a file"),
        (
            "sink.kind = \"oracle\"",
            "pipeline.sink.kind: there is no sink \"oracle\": expected \"sqlite\" or \"mongodb\"",
        ),
        ("batch_size = 0", "pipeline.batch_size: expected an integer from 1 to 100000, found 0"),
    ] {
        let got = one(&format!("[pipeline]\n{keys}"));
        assert!(got.ends_with(said), "{keys}: {got}");
    }
    let got = one("[pipeline]\ndead_letter = \"no topic\"");
    assert!(got.starts_with("herald.toml: pipeline.dead_letter: \"no topic\" is no name for a topic: "), "{got}");
}

#[test]
#[cfg(feature = "pipeline")]
fn the_pipeline_is_off_without_its_table_and_has_its_defaults_with_it() {
    assert!(good("", &[], &[]).settings.pipeline.is_none());
    let loaded = good("[pipeline]\n[pipeline.sink]\npath = \"mine.db\"", &[], &["pipeline.flush_ms=7"]);
    let pipeline = loaded.settings.pipeline.unwrap();
    assert_eq!(pipeline.config.flush, std::time::Duration::from_millis(7));
    assert_eq!((pipeline.config.console.as_deref(), pipeline.config.streams.len()), (Some("127.0.0.1:8080"), 2));
    assert!(format!("{:?}", pipeline.sink).contains("mine.db"), "{:?}", pipeline.sink);
}

#[test]
fn a_token_is_given_by_exactly_one_key() {
    let token = |keys: &str| one(&format!("[auth]\ntokens = [{{ name = \"a\", {keys} }}]"));
    let expected = "herald.toml: auth.tokens[0]: expected one of token, token_file and token_env";
    assert_eq!(token("admin = true"), expected);
    assert_eq!(token("token = \"a\", token_env = \"B\""), expected);
    assert_eq!(token("token = \"\""), "herald.toml: auth.tokens[0].token: the token is empty");
    assert_eq!(
        token("token_env = \"NOT_SET\""),
        "herald.toml: auth.tokens[0].token_env: the environment variable \"NOT_SET\" is not set"
    );
    let missing = token("token_file = \"/no/such/file\"");
    assert!(missing.contains("auth.tokens[0].token_file: /no/such/file cannot be read: No such file"), "{missing}");
    let endless = token("token_file = \"/dev/zero\"");
    assert!(endless.contains("auth.tokens[0].token_file: the token has"), "{endless}");
    assert_eq!(
        token("token = \"x\", subscribe = [\"a b\"]"),
        "herald.toml: auth.tokens[0].subscribe: \"a b\": no topic can match this pattern: expected A-Z a-z 0-9 . _ : - and *, not beginning with a dot"
    );
}

#[test]
fn a_dead_letter_topic_has_a_name_of_its_own() {
    for name in ["", "a b", "{topic}", "{topic}/dead", "{topic}.{topic}", ".dead", "jobs", "{topics}"] {
        let problem = one(&format!("[topics.jobs]\ndead_letter = \"{name}\""));
        assert!(problem.starts_with("herald.toml: topics.jobs.dead_letter: "), "{problem}");
        assert!(problem.contains("is no name for another topic: expected one such as"), "{problem}");
    }
}

#[test]
fn secrets_are_not_quoted_in_errors() {
    for file in [
        "[publish]\ntoken = [\"s3cret\"]",
        "[auth]\ntokens = \"s3cret\"",
        "[auth]\ntokens = [\"s3cret\"]",
        "[auth]\ntokens = [{ token = [\"s3cret\"], name = \"a\" }]",
        "[auth]\ntokens = [{ token = \"s3cret\\n\", name = \"a\" }]",
        "[auth]\ntokens = [{ token = \"s3cret\", name = \"a\" }, { token = \"s3cret\", name = \"b\" }]",
        "[auth]\ntokens = [{ token = \"s3cret\", name = \"a\", publish = [\".x\"] }]",
        "[auth]\ntokens = [{ token = \"s3cret\" }]",
        "[[sources]]\nkind = \"sse\"\nname = \"a\"\ntopic = \"t\"\nurl = { a = \"s3cret\" }",
    ] {
        let problems = bad(file, &[], &[]).join("\n");
        assert!(!problems.contains("s3cret"), "{problems}");
    }
    let header = bad(
        "[[sources]]\nkind = \"sse\"\nname = \"a\"\ntopic = \"t\"\nurl = \"http://h\"\nheaders = { a = \"s3\\ncret\" }",
        &[],
        &[],
    );
    assert!(header.len() == 1 && !header[0].contains("s3"), "{header:?}");
}

#[test]
fn everything_is_reported_at_once() {
    let file = "
        [broker]
        shards = \"x\"
        log = \"no=such=filter\"
        [storage]
        path = \"\"
        kidn = 1
        [transports.tcp]
        listen = \"nowhere\"
        [commands]
        publish = \"ping\"
        [topics.\"a/b\"]
        max_waiting = -1
        [[sources]]
        kind = \"sse\"
        topic = \"no topic\"";
    let problems = bad(file, &[("HERALD_NO", "1")], &["nothing"]);
    for key in [
        "broker.shards",
        "broker.log",
        "storage.path",
        "storage.kidn",
        "transports.tcp.listen",
        "commands.publish",
        "topics.\"a/b\": no topic",
        "topics.\"a/b\".max_waiting",
        "sources[0].name: this key is missing",
        "sources[0].url: this key is missing",
        "HERALD_NO",
        "--set",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(key)), "{key} in {problems:#?}");
    }
    assert_eq!(problems.len(), 12, "{problems:#?}");
    let error = load(&inputs(file, &[], &[]).1).unwrap_err().to_string();
    assert!(error.starts_with("the configuration has "), "{error}");
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    #[cfg(feature = "ws")]
    assert_eq!(
        one("[transports.ws]\nlisten = \"127.0.0.1:8000\""),
        "herald.toml: transports.ws.listen: \"127.0.0.1:8000\" is what transports.tcp.listen listens on: choose another port"
    );
    #[cfg(feature = "pipeline")]
    {
        let found = one("[pipeline]\nconsole = \"0.0.0.0:8000\"");
        assert!(
            found.contains("pipeline.console: \"0.0.0.0:8000\" is what transports.tcp.listen listens on"),
            "{found}"
        );
    }
}

#[test]
fn files_that_cannot_be_read_say_what_to_do() {
    let load_file = |file| load(&Inputs { file, ..Inputs::default() });
    let missing = PathBuf::from("/nonexistent/herald.toml");
    assert!(load_file(FileLayer::IfThere(missing.clone())).is_ok());
    assert_eq!(
        load_file(FileLayer::Named(missing)).unwrap_err().to_string(),
        "configuration: /nonexistent/herald.toml: there is no such file: name another with --config, or make it with: \
         herald config init /nonexistent/herald.toml"
    );
    let text = one("[broker\nshards = 1");
    assert!(text.starts_with("herald.toml: not valid TOML: line 1, column 8: "), "{text}");
    let twice = one("[broker]\nshards = 1\nshards = 2");
    assert!(twice.contains("duplicate key `shards`"), "{twice}");
}

#[test]
fn commands_that_clash_are_refused() {
    for (commands, key) in [
        ("publish = \"x\"\nsubscribe = \"X\"", "subscribe"),
        ("publish = \"stats\"", "publish"),
        ("acknowledge = \"SUBSCRIBE\"", "acknowledge"),
        ("unsubscribe = \"peek\"", "unsubscribe"),
        ("publish = \"ack\"", "acknowledge"),
        ("publish = \"a b\"", "publish"),
        ("publish = \"\"", "publish"),
    ] {
        let problem = one(&format!("[commands]\n{commands}"));
        assert!(problem.contains(&format!("commands.{key}: ")), "{problem}");
        assert!(problem.ends_with("choose another word"), "{problem}");
    }
}

#[test]
fn addresses_are_checked_before_anything_is_bound() {
    for (listen, good) in [
        ("127.0.0.1:0", true),
        ("localhost:8000", true),
        ("[::]:8000", true),
        ("0.0.0.0:65535", true),
        ("8000", false),
        (":8000", false),
        ("::1:8000", false),
        ("h:99999", false),
        ("[x]:1", false),
        ("tcp://h:1", false),
    ] {
        let (_dir, inputs) = inputs("", &[], &[&format!("transports.tcp.listen={listen}")]);
        let loaded = load(&inputs);
        assert_eq!(loaded.is_ok(), good, "{listen}");
        if let Err(error) = loaded {
            assert!(error.to_string().contains("expected host:port"), "{error}");
        }
    }
    assert_eq!(
        one("[transports.tcp]\nenabled = false"),
        "herald.toml: transports: no transport is on, so no client could connect: set transports.tcp.enabled = true"
    );
}

#[test]
fn sources_are_checked_without_connecting() {
    let source = |more: &str| format!("[[sources]]\nkind = \"sse\"\nname = \"a\"\n{more}\n");
    let fine = source("url = \"http://h\"\ntopic = \"t\"");
    for (file, expected) in [
        (
            source("url = \"ftp://h\"\ntopic = \"t\""),
            "sources[0].url: the SSE url cannot be used: the scheme is ftp, not http or https",
        ),
        (source("url = \"http://h\"\ntopic = \"/a~\""), "sources[0].topic: \"/a~\" is not a JSON pointer"),
        (source("url = \"http://h\"\ntopic = \"a b\""), "sources[0].topic: invalid topic name \"a b\""),
        (source("url = \"http://h\"\ntopic = \"t\"\nmsg = \"a\""), "sources[0].msg: \"a\" is not a JSON pointer"),
        (
            source("url = \"http://h\"\ntopic = \"t\"\npriority = \"a\""),
            "sources[0].priority: expected an integer of 32 bits",
        ),
        (
            source("url = \"http://h\"\ntopic = \"t\"\npriority = { random = [6, 0] }"),
            "sources[0].priority: expected an integer",
        ),
        (fine.replace("\"a\"", "\"herald:import\""), "sources[0].name: \"herald:import\" is reserved"),
        (format!("{fine}{fine}"), "sources[1].name: \"a\" is the name of sources[0] as well"),
        (
            "[[sources]]\nname = \"a\"".to_owned(),
            "sources[0].kind: this key is missing: expected \"sse\" or \"change-stream\"",
        ),
        (
            "[[sources]]\nkind = \"rss\"".to_owned(),
            "sources[0].kind: expected \"sse\" or \"change-stream\", found the string \"rss\"",
        ),
    ] {
        let problem = one(&file);
        assert!(problem.starts_with(&format!("herald.toml: {expected}")), "{problem}");
    }
}
