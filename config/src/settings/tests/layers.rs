//! Layers, their precedence, and the conversion of values to settings.

use std::path::Path;
use std::time::Duration;

use broker_core::name::TopicName;
use broker_core::policy::{DuplicateId, Overflow};
use broker_core::settings::Durability;

use super::*;
use crate::validate::LogFormat;

#[test]
fn an_empty_configuration_is_the_defaults() {
    let loaded = load(&Inputs::default()).unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.broker.max_line_bytes, 1_048_576);
    assert_eq!(settings.broker.max_topics, 100_000);
    assert_eq!(settings.broker.shutdown_timeout, Duration::from_secs(10));
    assert_eq!((settings.broker.log.as_str(), settings.broker.log_format), ("info", LogFormat::Text));
    assert_eq!((settings.storage.kind, settings.storage.path.as_path()), ("json-log", Path::new("data")));
    assert_eq!(settings.storage.durability, Durability::Always);
    assert_eq!(settings.storage.sync_interval, Duration::from_secs(1));
    assert_eq!((settings.storage.memory_budget_bytes, settings.storage.clean_on_start), (256 << 20, false));
    assert_eq!(
        (value(&loaded, "storage.on_damage"), value(&loaded, "storage.segment_mb")),
        ("serve".into(), 64.into())
    );
    let [tcp] = &*settings.transports else { panic!("{:?}", settings.transports) };
    assert_eq!((tcp.kind, tcp.config.max_connections(), tcp.config.is_encrypted()), ("tcp", 10_000, false));
    assert_eq!(value(&loaded, "transports.tcp.listen"), "127.0.0.1:8000");
    assert!(settings.sources.is_empty());
    let policy = settings.policies.of(&TopicName::new("any").unwrap());
    assert_eq!(policy, broker_core::policy::TopicPolicy::default());
    assert_eq!((settings.commands.publish.as_str(), settings.commands.acknowledge.as_str()), ("pub", "ack"));
}

#[test]
fn each_layer_overrides_the_ones_below() {
    let file = "[storage]\npath = \"from-file\"\nsync_interval_ms = 5\n[broker]\nmax_topics = 7";
    let variables = [("HERALD_STORAGE__PATH", "from-variable"), ("HERALD_BROKER__MAX_TOPICS", "8"), ("HOME", "/")];
    let loaded = good(file, &variables, &["storage.path=first", "storage.path=from-set"]);
    assert_eq!(loaded.settings.storage.path, PathBuf::from("from-set"));
    assert_eq!(loaded.settings.broker.max_topics, 8);
    assert_eq!(loaded.settings.storage.sync_interval, Duration::from_millis(5));
    assert_eq!(loaded.origins["storage.path"], Origin::Set);
    assert_eq!(loaded.origins["broker.max_topics"], Origin::Variable("HERALD_BROKER__MAX_TOPICS".to_owned()));
    assert!(matches!(&loaded.origins["storage.sync_interval_ms"], Origin::File(path) if path.ends_with("herald.toml")));
    assert_eq!(loaded.origins.get("broker.log"), None, "a default");
}

#[test]
fn a_numeric_looking_value_can_be_a_string_in_the_environment_and_in_sets() {
    for value in ["2024", "1.5", "true", "0x10", "[a]", "1979-05-27", "a b", "ä", "quoted \" inside"] {
        let loaded = good("", &[("HERALD_STORAGE__PATH", value)], &[]);
        assert_eq!(loaded.settings.storage.path, PathBuf::from(value), "{value}");
        let loaded = good("", &[], &[&format!("storage.path={value}")]);
        assert_eq!(loaded.settings.storage.path, PathBuf::from(value.trim()), "{value}");
    }
    assert_eq!(good("", &[("HERALD_STORAGE__PATH", "\"quoted\"")], &[]).settings.storage.path, PathBuf::from("quoted"));
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
    );
    let settings = &loaded.settings;
    assert_eq!((settings.broker.shards.get(), settings.storage.clean_on_start), (3, true));
    assert_eq!(settings.storage.durability, Durability::Never);
    assert_eq!(settings.policies.of(&TopicName::new("tweets").unwrap()).max_waiting, 5);
    assert_eq!((value(&loaded, "transports.tcp.listen"), settings.sources.len()), ("[::1]:0".into(), 1));
}

#[test]
fn a_set_can_name_a_pattern_and_give_a_table() {
    let settings = good("", &[], &["topics.\"tweets.*\".max_waiting=5", "topics.users={ ttl_ms = 9 }"]).settings;
    assert_eq!(settings.policies.of(&TopicName::new("tweets.hot").unwrap()).max_waiting, 5);
    assert_eq!(settings.policies.of(&TopicName::new("users").unwrap()).ttl_ms, 9);
}

#[test]
fn tls_inside_a_transport_is_not_another_transport() {
    let tls = ["transports.tcp.tls.cert=cert.pem", "transports.tcp.tls.key=key.pem"];
    let in_a_file = "[transports.tcp]\ntls = { cert = \"cert.pem\", key = \"key.pem\" }";
    for loaded in [good("", &[], &tls), good(in_a_file, &[], &[])] {
        let [tcp] = &*loaded.settings.transports else { panic!("{:?}", loaded.settings.transports) };
        assert!(tcp.config.is_encrypted());
    }
}

#[test]
fn a_pattern_inherits_from_the_general_one() {
    let file = "[topics.\"*\"]\nmax_waiting = 10\nduplicate_id = \"reject\"\n[topics.tweets]\nmax_waiting = 5";
    let policies = good(file, &[], &[]).settings.policies;
    let tweets = policies.of(&TopicName::new("tweets").unwrap());
    assert_eq!((tweets.max_waiting, tweets.duplicate_id, tweets.auto_create), (5, DuplicateId::Reject, true));
    assert_eq!(policies.of(&TopicName::new("users").unwrap()).max_waiting, 10);
}

#[test]
fn a_source_has_every_configured_value() {
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
    assert_eq!([&*a.name, &*b.name, &*c.name], ["a", "b", "c"]);
    let [a, b, c] = [a, b, c].map(|source| format!("{:?}", source.config));
    for written in ["Pointer(Pointer", "\"kind\"", "\"meta\"", "Random(0, 6)", "on_missing: Skip"] {
        assert!(a.contains(written), "{written} in {a}");
    }
    assert!(b.contains("id: None") && b.contains("on_missing: Null") && b.contains("priority: Pointer("), "{b}");
    assert!(c.contains("priority: Fixed(-3)"), "{c}");
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
fn the_dead_letter_policy_is_configurable() {
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
fn two_commands_can_swap_their_words() {
    let commands = good("[commands]\npublish = \"SEND\"\nsubscribe = \"pub\"", &[], &[]).settings.commands;
    assert_eq!((commands.publish.as_str(), commands.subscribe.as_str()), ("SEND", "pub"));
}
