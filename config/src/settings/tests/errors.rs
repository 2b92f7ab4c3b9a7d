//! Messages about keys, types and plugins.

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
fn variables_of_a_kubernetes_service_called_herald_are_ignored() {
    let variables = [
        ("HERALD_PORT", "tcp://10.0.0.7:8000"),
        ("HERALD_SERVICE_HOST", "10.0.0.7"),
        ("HERALD_SERVICE_PORT", "8000"),
        ("HERALD_PORT_8000_TCP", "tcp://10.0.0.7:8000"),
        ("HERALD_PORT_8000_TCP_ADDR", "10.0.0.7"),
        ("HERALD_STORAGE__PATH", "there"),
    ];
    assert_eq!(good("", &variables, &[]).settings.storage.path, PathBuf::from("there"));
}

#[test]
fn a_topic_that_a_variable_would_write_in_lower_case_is_an_error() {
    let found = bad("", &[("HERALD_TOPICS__Orders__MAX_WAITING", "5")], &[]).join("");
    assert!(found.contains("lower case") && found.contains("--set 'topics.\"Orders\".…'"), "{found}");
    good("", &[("HERALD_TOPICS__ORDERS__MAX_WAITING", "5")], &[]);
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
    set("broker.shards=many", "--set: broker.shards: expected an integer from 0 to 1024, found the string \"many\"");
}

#[test]
fn malformed_sets_say_what_was_expected() {
    set(
        "storage.path",
        "--set: expected key=value, such as storage.path=data, found \"storage.path\" and no = after it",
    );
    set("a b=1", "--set: \"a…\" is no dotted key; quote what is not a word: topics.\"a.*\".ttl_ms");
    // In a build without a storage the key may belong to that storage, so the check of its table reports it.
    let found = bad("", &[], &["storage.pth=1"]).join("");
    assert!(found.starts_with("--set: storage.pth: unknown key: did you mean ") && found.ends_with("path?"), "{found}");
    set(
        "sources.x=1",
        "--set: sources: this is a list: give the whole of it, in TOML, such as [{ kind = \"sse\", … }]",
    );
}

#[test]
fn missing_plugins_are_reported_with_the_reason() {
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
fn an_invalid_change_stream_says_what_was_expected() {
    let with = |keys: &str| one(&format!("[[sources]]\nkind = \"change-stream\"\nname = \"a\"\ntopic = \"t\"\n{keys}"));
    for (keys, key, text) in [
        ("uri = \"mongodb://h\"", "database", "no database given"),
        ("uri = \"http://u:s3cret@h/d\"", "uri", "not a MongoDB connection string"),
        ("uri = \"mongodb://h/d\"\ncollection = []", "collection", "expected a string or a list of strings"),
        ("uri = \"mongodb://h/d\"\ncollection = [\"a\", 1]", "collection", "expected a string or a list of strings"),
        ("uri = \"mongodb://h/d\"\ncollection = \"$x\"", "collection", "not a valid MongoDB collection name"),
        ("uri = \"mongodb://h/d\"\noperations = []", "operations", "at least one operation"),
        ("uri = \"mongodb://h/d\"\nfull_document = \"of\"", "full_document", "did you mean \"off\""),
        ("uri = \"mongodb://h/d\"\nmsg = \"x\"", "msg", "not a JSON pointer"),
    ] {
        let problem = with(keys);
        // A missing key comes from no file.
        assert!(problem.contains(&format!("sources[0].{key}: ")), "{problem}");
        assert!(problem.contains(text) && !problem.contains("s3cret"), "{problem}");
    }
}

#[cfg(feature = "mongodb")]
#[test]
fn a_change_stream_has_one_collection_several_or_all() {
    let collections = |keys: &str| {
        let source =
            "[[sources]]\nkind = \"change-stream\"\nname = \"a\"\ntopic = \"t\"\nuri = \"mongodb://u:s3cret@h/d\"";
        let loaded = good(&format!("{source}\n{keys}"), &[], &[]);
        assert!(!crate::settings::show(&loaded).contains("s3cret"));
        format!("{:?}", loaded.settings.sources[0].config)
    };
    assert!(collections("collection = \"c\"").contains("collections: [\"c\"]"));
    assert!(collections("collection = [\"c\", \"b\"]").contains("collections: [\"c\", \"b\"]"));
    assert!(collections("").contains("collections: []"));
}

#[test]
fn a_key_of_another_kind_names_the_kinds_that_have_it() {
    #[cfg(feature = "sqlite")]
    assert_eq!(
        one("[storage]\nkind = \"sqlite\"\nsegment_mb = 8"),
        "herald.toml: storage.segment_mb: kind = \"sqlite\" has no segment_mb: remove the key, or set kind = \"json-log\""
    );
    #[cfg(all(feature = "sqlite", feature = "sled"))]
    assert_eq!(
        bad("", &[("HERALD_STORAGE__CACHE_MB", "8")], &[]),
        [
            "environment variable HERALD_STORAGE__CACHE_MB: storage.cache_mb: kind = \"json-log\" has no cache_mb: remove the \
          key, or set kind = \"sled\" or \"sqlite\""
        ]
    );
    #[cfg(all(feature = "pipeline", feature = "mongodb"))]
    assert_eq!(
        one("[pipeline.sink]\nuri = \"mongodb://h/d\""),
        "herald.toml: pipeline.sink.uri: kind = \"sqlite\" has no uri: remove the key, or set kind = \"mongodb\""
    );
}

#[cfg(feature = "sqlite")]
#[test]
fn the_key_of_a_kind_reaches_its_storage() {
    let config = |set: &[&str]| format!("{:?}", good("", &[], set).settings.storage.config);
    assert!(config(&["storage.kind=sqlite", "storage.cache_mb=8"]).contains("cache_bytes: 8388608"));
    assert!(config(&["storage.kind=sqlite"]).contains("cache_bytes: 33554432"));
    assert!(config(&["storage.segment_mb=8"]).contains("segment_bytes: 8388608"));
}
