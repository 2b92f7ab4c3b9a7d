//! Layers, precedence, every kind of error and its text, and the two ways in which a configuration is printed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broker_core::name::TopicName;
use broker_core::policy::{DuplicateId, Overflow};

use super::*;

/// A configuration from a file's text, variables and `--set`s.
fn inputs(file: &str, variables: &[(&str, &str)], set: &[&str]) -> (tempfile::TempDir, Inputs) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("herald.toml");
    std::fs::write(&path, file).unwrap();
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    let set = set.iter().map(|set| (*set).to_owned()).collect();
    (dir, Inputs { file: FileLayer::Named(path), environment, set })
}

fn good(file: &str, variables: &[(&str, &str)], set: &[&str]) -> Loaded {
    let (_dir, inputs) = inputs(file, variables, set);
    load(&inputs).unwrap_or_else(|error| panic!("{error}"))
}

/// The problems, with the temporary directory taken out.
fn bad(file: &str, variables: &[(&str, &str)], set: &[&str]) -> Vec<String> {
    let (dir, inputs) = inputs(file, variables, set);
    let error = load(&inputs).expect_err("a problem");
    let at = format!("{}/", dir.path().display());
    error.problems.iter().map(|problem| problem.to_string().replace(&at, "")).collect()
}

fn one(file: &str) -> String {
    let problems = bad(file, &[], &[]);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

#[track_caller]
fn variable(name: &str, value: &str, expected: &str) {
    assert_eq!(bad("", &[(name, value)], &[]), [expected], "{name}={value}");
}

#[track_caller]
fn set(text: &str, expected: &str) {
    assert_eq!(bad("", &[], &[text]), [expected], "{text}");
}

mod layers_and_values {
    use super::*;

    #[test]
    fn an_empty_configuration_is_the_defaults() {
        let settings = load(&Inputs::default()).unwrap().settings;
        assert_eq!(settings.broker.max_line_bytes, 1_048_576);
        assert_eq!(settings.broker.max_topics, 100_000);
        assert_eq!(settings.broker.shutdown_timeout, Duration::from_secs(10));
        assert_eq!((settings.broker.log.as_str(), settings.broker.log_format), ("info", LogFormat::Text));
        assert_eq!((settings.storage.kind.as_str(), settings.storage.path.as_path()), ("json-log", Path::new("data")));
        assert_eq!(settings.storage.durability, Durability::Always);
        assert_eq!(settings.storage.sync_interval, Duration::from_secs(1));
        assert_eq!((settings.storage.memory_budget_bytes, settings.storage.segment_bytes), (256 << 20, 64 << 20));
        assert_eq!((settings.storage.on_damage, settings.storage.clean_on_start), (OnDamage::Serve, false));
        let [tcp] = &*settings.transports else { panic!("{:?}", settings.transports) };
        assert_eq!((tcp.kind, tcp.listen.as_str(), tcp.max_connections), ("tcp", "127.0.0.1:8000", 10_000));
        assert_eq!(tcp.idle_timeout, None);
        assert!(settings.sources.is_empty());
        let policy = settings.policies.of(&TopicName::new("any").unwrap());
        assert_eq!(policy, broker_core::policy::TopicPolicy::default());
        assert_eq!((settings.commands.publish.as_str(), settings.commands.acknowledge.as_str()), ("pub", "ack"));
    }

    #[test]
    fn each_layer_beats_the_ones_below() {
        let file = "[storage]\npath = \"from-file\"\nsync_interval_ms = 5\n[broker]\nmax_topics = 7";
        let variables = [("HERALD_STORAGE__PATH", "from-variable"), ("HERALD_BROKER__MAX_TOPICS", "8"), ("HOME", "/")];
        let loaded = good(file, &variables, &["storage.path=first", "storage.path=from-set"]);
        assert_eq!(loaded.settings.storage.path, PathBuf::from("from-set"));
        assert_eq!(loaded.settings.broker.max_topics, 8);
        assert_eq!(loaded.settings.storage.sync_interval, Duration::from_millis(5));
        assert_eq!(loaded.origins["storage.path"], Origin::Set);
        assert_eq!(loaded.origins["broker.max_topics"], Origin::Variable("HERALD_BROKER__MAX_TOPICS".to_owned()));
        assert!(
            matches!(&loaded.origins["storage.sync_interval_ms"], Origin::File(path) if path.ends_with("herald.toml"))
        );
        assert_eq!(loaded.origins["broker.log"], Origin::Default);
    }

    #[test]
    fn what_looks_like_a_number_can_be_a_string_in_the_environment_and_in_sets() {
        for value in ["2024", "1.5", "true", "0x10", "[a]", "1979-05-27", "a b", "ä", "quoted \" inside"] {
            let loaded = good("", &[("HERALD_STORAGE__PATH", value)], &[]);
            assert_eq!(loaded.settings.storage.path, PathBuf::from(value), "{value}");
            let loaded = good("", &[], &[&format!("storage.path={value}")]);
            assert_eq!(loaded.settings.storage.path, PathBuf::from(value.trim()), "{value}");
        }
        assert_eq!(
            good("", &[("HERALD_STORAGE__PATH", "\"quoted\"")], &[]).settings.storage.path,
            PathBuf::from("quoted")
        );
        assert_eq!(good("", &[], &["broker.log=info,herald=debug"]).settings.broker.log, "info,herald=debug");
    }

    #[test]
    fn every_type_can_come_from_the_environment() {
        let loaded = good(
            "",
            &[
                ("HERALD_BROKER__SHARDS", "3"),
                ("HERALD_STORAGE__CLEAN_ON_START", "true"),
                ("HERALD_STORAGE__DURABILITY", "never"),
                ("HERALD_TOPICS__TWEETS__MAX_WAITING", "5"),
                ("HERALD_TRANSPORTS__TCP__LISTEN", "[::1]:0"),
                ("HERALD_SOURCES", "[{ kind = \"sse\", name = \"a\", url = \"http://h/\", topic = \"t\" }]"),
                ("HERALD_SERVER", "not a key"),
                ("HERALD_TOKEN", "not a key"),
                ("HERALD_CONFIG", "not a key"),
            ],
            &[],
        )
        .settings;
        assert_eq!((loaded.broker.shards.get(), loaded.storage.clean_on_start), (3, true));
        assert_eq!(loaded.storage.durability, Durability::Never);
        assert_eq!(loaded.policies.of(&TopicName::new("tweets").unwrap()).max_waiting, 5);
        assert_eq!((loaded.transports[0].listen.as_str(), loaded.sources.len()), ("[::1]:0", 1));
    }

    #[test]
    fn a_set_can_name_a_pattern_and_give_a_table() {
        let settings = good("", &[], &["topics.\"tweets.*\".max_waiting=5", "topics.users={ ttl_ms = 9 }"]).settings;
        assert_eq!(settings.policies.of(&TopicName::new("tweets.hot").unwrap()).max_waiting, 5);
        assert_eq!(settings.policies.of(&TopicName::new("users").unwrap()).ttl_ms, 9);
    }

    #[test]
    fn a_pattern_takes_what_it_does_not_say_from_the_general_one() {
        let file = "[topics.\"*\"]\nmax_waiting = 10\nduplicate_id = \"reject\"\n[topics.tweets]\nmax_waiting = 5";
        let policies = good(file, &[], &[]).settings.policies;
        let tweets = policies.of(&TopicName::new("tweets").unwrap());
        assert_eq!((tweets.max_waiting, tweets.duplicate_id, tweets.auto_create), (5, DuplicateId::Reject, true));
        assert_eq!(policies.of(&TopicName::new("users").unwrap()).max_waiting, 10);
    }

    #[test]
    fn a_source_has_everything_that_was_written() {
        let file = "
            [[sources]]
            kind = \"sse\"
            name = \"a\"
            url = \"https://user:pass@host/x?token=y\"
            headers = { Authorization = \"Bearer s3cret\" }
            topic = \"/kind\"
            id = \"/meta/id\"
            msg = \"/text\"
            priority = { random = [0, 6] }
            on_missing = \"skip\"
            [[sources]]
            kind = \"sse\"
            name = \"b\"
            url = \"http://host\"
            topic = \"t\"
            priority = \"/p\"
            [[sources]]
            kind = \"sse\"
            name = \"c\"
            url = \"http://host\"
            topic = \"t\"
            priority = -3";
        let loaded = good(file, &[], &[]);
        let [a, b, c] = &*loaded.settings.sources else { panic!() };
        assert_eq!(
            (a.name.as_str(), a.topic.as_str(), a.id.as_str(), a.msg.as_str()),
            ("a", "/kind", "/meta/id", "/text")
        );
        assert_eq!((&a.priority, a.on_missing), (&crate::validate::Priority::Random(0, 6), OnMissing::Skip));
        assert_eq!(
            (&b.priority, b.on_missing, b.id.as_str()),
            (&crate::validate::Priority::Pointer("/p".to_owned()), OnMissing::Null, "")
        );
        assert_eq!(c.priority, crate::validate::Priority::Fixed(-3));
        let debugged = format!("{:?}", loaded.settings);
        assert!(!debugged.contains("s3cret") && !debugged.contains("pass"), "{debugged}");
    }

    #[test]
    fn defaults_of_later_features_may_be_written() {
        let file = "
            [engine]
            kind = \"local\"
            [auth]
            tokens = []
            [publish]
            to = \"local\"
            [transports.ws]
            enabled = false
            [transports.http]
            enabled = false
            ";
        let settings = good(file, &[], &[]).settings;
        assert_eq!(settings.transports.len(), 1);
    }

    #[test]
    fn tokens_come_from_the_file_another_file_and_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "from a file\r\n").unwrap();
        let file = format!(
            "[auth]\ntokens = [{{ token = \"one\", name = \"a\", publish = [\"t.*\"] }}, \
             {{ token_file = \"{}\", name = \"b\", admin = true }}, {{ token_env = \"BROKER_TOKEN\", name = \"c\" }}]",
            path.display()
        );
        let loaded = good(&file, &[("BROKER_TOKEN", "from the environment")], &[]);
        let tokens: Vec<_> = loaded.settings.tokens.iter().map(|token| token.token.reveal()).collect();
        assert_eq!(tokens, ["one", "from a file", "from the environment"]);
        assert_eq!(loaded.settings.tokens[0].rights.publish, ["t.*"]);
        assert!(loaded.settings.tokens[1].rights.admin);
        let shown = format!("{}{:?}", crate::settings::show(&loaded), loaded.settings);
        assert!(!shown.contains("\"one\"") && !shown.contains("from a file"), "{shown}");
        assert!(shown.contains("token = \"(hidden)\""), "{shown}");
        let whole = "[{ token = \"x\", name = \"y\" }]";
        assert_eq!(good("", &[("HERALD_AUTH__TOKENS", whole)], &[]).settings.tokens.len(), 1);
    }

    #[test]
    fn what_becomes_of_dead_letters_is_configurable() {
        let file = "
            [topics.jobs]
            max_waiting = 10
            overflow = \"drop-lowest\"
            max_deliveries = 3
            dead_letter = \"grave.{topic}\"
            expired_to_dead_letter = true
            [topics.orders]
            overflow = \"dead-letter\"";
        let policies = good(file, &[], &[]).settings.policies;
        let name = |name| TopicName::new(name).unwrap();
        let jobs = policies.of(&name("jobs"));
        assert_eq!((jobs.overflow, jobs.max_deliveries, jobs.expired_to_dead_letter), (Overflow::DropLowest, 3, true));
        assert_eq!(jobs.dead_letter_of(&name("jobs")), Some(name("grave.jobs")));
        let orders = policies.of(&name("orders"));
        assert_eq!((orders.overflow, orders.max_deliveries), (Overflow::DeadLetter, 0));
        assert_eq!(orders.dead_letter_of(&name("orders")), Some(name("orders.dead")));
    }

    #[test]
    fn commands_can_swap_their_words() {
        let commands = good("[commands]\npublish = \"SEND\"\nsubscribe = \"pub\"", &[], &[]).settings.commands;
        assert_eq!((commands.publish.as_str(), commands.subscribe.as_str()), ("SEND", "pub"));
    }
}

mod errors {
    use super::*;

    #[test]
    fn unknown_keys_are_named_with_what_was_probably_meant() {
        assert_eq!(one("[storage]\nknid = \"json-log\""), "herald.toml: storage.knid: unknown key: did you mean kind?");
        assert_eq!(one("[storag]\nkind = \"json-log\""), "herald.toml: storag: unknown key: did you mean storage?");
        assert_eq!(
            one("[commands]\ncolour = 1"),
            "herald.toml: commands.colour: unknown key: expected one of publish, subscribe, unsubscribe, acknowledge"
        );
        assert_eq!(one("quux = 1"), "herald.toml: quux: unknown key: see `herald config init` for those there are");
        assert_eq!(
            one("[topics.\"a.*\"]\nttl = 1"),
            "herald.toml: topics.\"a.*\".ttl: unknown key: expected one of auto_create, duplicate_id, max_waiting, \
             max_waiting_bytes, overflow, ack_timeout_ms, max_deliveries, dead_letter, ttl_ms, expired_to_dead_letter"
        );
    }

    #[test]
    fn unknown_variables_are_errors_that_name_the_right_one() {
        variable(
            "HERALD_STORAGE_KIND",
            "x",
            "environment variable HERALD_STORAGE_KIND: this is no key: did you mean HERALD_STORAGE__KIND?",
        );
        variable(
            "HERALD_X",
            "",
            "environment variable HERALD_X: this is no key: unset it, or see `herald config init` for the keys; `__` stands between levels",
        );
        variable(
            "HERALD_",
            "",
            "environment variable HERALD_: this is no key: unset it, or see `herald config init` for the keys; `__` stands between levels",
        );
        variable(
            "HERALD_SOURCES__0__URL",
            "x",
            "environment variable HERALD_SOURCES__0__URL: sources: this is a list: give the whole of it, in TOML, such as [{ kind = \"sse\", … }]",
        );
    }

    #[test]
    fn wrong_types_say_what_was_expected_and_what_was_found() {
        assert_eq!(
            one("[broker]\nshards = \"4\""),
            "herald.toml: broker.shards: expected an integer from 0 to 1024, found the string \"4\""
        );
        assert_eq!(
            one("[broker]\nshards = 1.0"),
            "herald.toml: broker.shards: expected an integer from 0 to 1024, found the number 1.0"
        );
        assert_eq!(
            one("[broker]\nshards = -1"),
            "herald.toml: broker.shards: expected an integer from 0 to 1024, found -1"
        );
        assert_eq!(one("[storage]\npath = 5"), "herald.toml: storage.path: expected a string, found 5");
        assert_eq!(
            one("[storage]\nclean_on_start = 1"),
            "herald.toml: storage.clean_on_start: expected true or false, found 1"
        );
        assert_eq!(one("storage = 5"), "herald.toml: storage: expected a table, found 5");
        assert_eq!(one("topics = 5"), "herald.toml: topics: expected a table, found 5");
        assert_eq!(one("topics.a = 5"), "herald.toml: topics.a: expected a table with the rules of a topic, found 5");
        assert_eq!(one("sources = 5"), "herald.toml: sources: expected a list of tables, found 5");
        assert_eq!(one("sources = [5]"), "herald.toml: sources[0]: expected a table, found 5");
        assert_eq!(
            one("[storage]\ndurability = \"allways\""),
            "herald.toml: storage.durability: expected \"always\", \"interval\" or \"never\", found the string \"allways\"; did you mean \"always\"?"
        );
        variable(
            "HERALD_BROKER__SHARDS",
            "many",
            "environment variable HERALD_BROKER__SHARDS: broker.shards: expected an integer from 0 to 1024, found the string \"many\"",
        );
        set(
            "broker.shards=many",
            "--set: broker.shards: expected an integer from 0 to 1024, found the string \"many\"",
        );
    }

    #[test]
    fn sets_that_are_none_say_what_was_expected() {
        set("storage.path", "--set: expected key=value, such as storage.path=data, found \"storage.path\"");
        set("a b=1", "--set: \"a b\" is no dotted key; quote what is not a word: topics.\"a.*\".ttl_ms");
        set("storage.pth=1", "--set: storage.pth: unknown key: did you mean storage.path?");
        set(
            "sources.x=1",
            "--set: sources: this is a list: give the whole of it, in TOML, such as [{ kind = \"sse\", … }]",
        );
    }

    #[test]
    fn plugins_that_are_not_there_say_so() {
        #[cfg(not(feature = "sled"))]
        assert_eq!(
            one("[storage]\nkind = \"sled\""),
            "herald.toml: storage.kind: this build has no \"sled\" storage: rebuild with --features sled"
        );
        assert_eq!(
            one("[storage]\nkind = \"postgres\""),
            "herald.toml: storage.kind: there is no storage \"postgres\": expected \"json-log\", \"sled\" or \"sqlite\""
        );
        let http = one("[transports.http]\nlisten = \"127.0.0.1:8090\"");
        assert!(
            http.starts_with(
                "herald.toml: transports.http: this build has no \"http\" transport: this version of Herald has none yet;"
            ),
            "{http}"
        );
        assert!(http.ends_with("or remove the table, or set enabled = false in it"), "{http}");
        let engine = one("[engine]\nkind = \"jetstream\"");
        assert!(engine.contains("no \"jetstream\" engine: this version"), "{engine}");
        #[cfg(not(feature = "mongodb"))]
        assert_eq!(
            one("[[sources]]\nkind = \"change-stream\"\nname = \"a\"\nuri = \"mongodb://h/d\"\ntopic = \"t\""),
            "herald.toml: sources[0].kind: this build has no \"change-stream\" source: rebuild with --features mongodb"
        );
    }

    #[cfg(feature = "mongodb")]
    #[test]
    fn a_change_stream_that_cannot_be_says_what_was_expected() {
        let with =
            |keys: &str| one(&format!("[[sources]]\nkind = \"change-stream\"\nname = \"a\"\ntopic = \"t\"\n{keys}"));
        for (keys, key, text) in [
            ("uri = \"mongodb://h\"", "database", "no database is named"),
            ("uri = \"http://u:s3cret@h/d\"", "uri", "not a MongoDB connection string"),
            ("uri = \"mongodb://h/d\"\ncollection = []", "collection", "expected a string or a list of strings"),
            (
                "uri = \"mongodb://h/d\"\ncollection = [\"a\", 1]",
                "collection",
                "expected a string or a list of strings",
            ),
            ("uri = \"mongodb://h/d\"\ncollection = \"$x\"", "collection", "no name of a MongoDB collection"),
            ("uri = \"mongodb://h/d\"\noperations = []", "operations", "at least one operation"),
            ("uri = \"mongodb://h/d\"\nfull_document = \"of\"", "full_document", "did you mean \"off\""),
            ("uri = \"mongodb://h/d\"\nmsg = \"x\"", "msg", "not a JSON pointer"),
        ] {
            let problem = with(keys);
            // A key that is not there has no file either.
            assert!(problem.contains(&format!("sources[0].{key}: ")), "{problem}");
            assert!(problem.contains(text) && !problem.contains("s3cret"), "{problem}");
        }
    }

    #[cfg(feature = "mongodb")]
    #[test]
    fn a_change_stream_has_one_collection_several_or_all() {
        use crate::validate::FeedSettings;
        let collections = |keys: &str| {
            let source =
                "[[sources]]\nkind = \"change-stream\"\nname = \"a\"\ntopic = \"t\"\nuri = \"mongodb://u:s3cret@h/d\"";
            let loaded = good(&format!("{source}\n{keys}"), &[], &[]);
            assert!(!crate::settings::show(&loaded).contains("s3cret"));
            match &loaded.settings.sources[0].feed {
                FeedSettings::ChangeStream(settings) => settings.collections.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(collections("collection = \"c\""), ["c"]);
        assert_eq!(collections("collection = [\"c\", \"b\"]"), ["c", "b"]);
        assert!(collections("").is_empty());
    }

    #[test]
    fn what_comes_later_is_refused_and_not_ignored() {
        let found = one("[engine.jetstream]\nurl = \"nats://h\"");
        let expected = "engine.jetstream: this version of Herald does not have this yet: remove the table";
        assert_eq!(found, format!("herald.toml: {expected}"));
    }

    #[test]
    fn a_broker_elsewhere_is_checked_and_its_token_is_not_shown() {
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
            assert!(
                found.starts_with(&format!("herald.toml: {expected}")) && !found.contains("s3cret"),
                "{keys}: {found}"
            );
        }
    }

    #[test]
    fn a_process_whose_sources_publish_elsewhere_listens_only_where_it_is_told_to() {
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
    fn what_the_pipeline_cannot_do_is_refused() {
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
                "pipeline.autostart: without a console nobody can start it: set pipeline.autostart = true, or give the console an address",
            ),
            ("workers = 70", "pipeline.max_workers: expected at least pipeline.workers, which is 70, found 64"),
            (
                "simulated_work_ms = [0, 60001]",
                "pipeline.simulated_work_ms: expected at most 60000 milliseconds, found 60001",
            ),
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
        assert_eq!((pipeline.workers, pipeline.max_workers, pipeline.batch_size), (5, 64, 200));
        assert_eq!(pipeline.flush, std::time::Duration::from_millis(7));
        assert_eq!((pipeline.console.as_deref(), pipeline.streams.len()), (Some("127.0.0.1:8080"), 2));
        assert_eq!((&*pipeline.sink.kind, pipeline.sink.path.to_str()), ("sqlite", Some("mine.db")));
    }

    #[test]
    fn a_token_is_where_one_key_says_and_nowhere_else() {
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
        assert!(text.starts_with("herald.toml: not valid TOML: TOML parse error at line 1"), "{text}");
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
            "herald.toml: transports: no transport is on, so nobody could connect: set transports.tcp.enabled = true"
        );
    }

    #[test]
    fn sources_are_checked_as_far_as_that_goes_without_connecting() {
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
}

mod printing {
    use super::*;

    #[test]
    fn what_init_writes_checks_and_changes_nothing() {
        let text = template();
        let from_template = good(&text, &[], &[]);
        let defaults = load(&Inputs::default()).unwrap();
        assert_eq!(changes(&defaults, &from_template), Vec::<String>::new());
        assert_eq!(format!("{:?}", defaults.settings), format!("{:?}", from_template.settings));
    }

    #[test]
    fn init_documents_every_key_with_its_default() {
        fn every_key(table: &'static schema::Table, see: &mut impl FnMut(&'static schema::Key)) {
            for key in table.keys {
                see(key);
                match &key.shape {
                    schema::Shape::Table(inner) | schema::Shape::Patterns(inner) => every_key(inner, see),
                    schema::Shape::List(kinds) if key.name == "sources" => {
                        kinds.iter().for_each(|(_, inner)| every_key(inner, see));
                    }
                    _ => {}
                }
            }
        }
        let text = template();
        every_key(&schema::ROOT, &mut |key| {
            if let schema::Presence::Default(default) = key.presence {
                let line = format!("{} = {default}", key.name);
                assert!(text.lines().any(|written| written.trim_start_matches("# ") == line), "{line}");
            } else {
                assert!(text.contains(key.name), "{}", key.name);
            }
            for line in key.doc.lines() {
                assert!(text.contains(&format!("# {line}\n")), "{line}");
            }
        });
    }

    #[test]
    fn show_says_where_each_value_comes_from_and_hides_secrets() {
        let file = "[[sources]]\nkind = \"sse\"\nname = \"a\"\nurl = \"http://u:s3cret@h/\"\ntopic = \"t\"\nheaders = { X = \"s3cret\" }";
        let loaded = good(file, &[("HERALD_STORAGE__DURABILITY", "interval")], &["broker.shards=2"]);
        let shown = show(&loaded);
        assert!(!shown.contains("s3cret"), "{shown}");
        let line =
            |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{shown}"));
        assert!(line("durability = \"interval\"").ends_with("# environment variable HERALD_STORAGE__DURABILITY"));
        assert!(line("shards = 2").ends_with("# --set"));
        assert!(line("max_topics = 100000").ends_with("# default"));
        assert!(line("name = \"a\"").ends_with("herald.toml"));
        // A bare `(hidden)@h` is a URL still, so what is shown can be checked again.
        let again = good(&shown, &[], &[]);
        let differ: Vec<String> = changes(&loaded, &again);
        assert_eq!(differ, ["sources"]);
    }

    #[test]
    fn shown_defaults_are_the_defaults() {
        let defaults = load(&Inputs::default()).unwrap();
        assert_eq!(changes(&defaults, &good(&show(&defaults), &[], &[])), Vec::<String>::new());
    }

    #[test]
    fn changes_are_told_by_key() {
        let old = good("", &[], &[]);
        let new = good("[broker]\nlog = \"debug\"\n[topics.a]\nttl_ms = 1", &[], &[]);
        assert_eq!(changes(&old, &new), ["broker.log", "topics.a"]);
    }
}
