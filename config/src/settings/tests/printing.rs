//! `herald config init` and `herald config show`.

use super::schema::{Field, Presence, Shape};
use super::*;

#[test]
fn the_output_of_init_is_valid_and_changes_nothing() {
    let text = template();
    let from_template = good(&text, &[], &[]);
    let defaults = load(&Inputs::default()).unwrap();
    assert_eq!(changes(&defaults, &from_template), Vec::<String>::new());
    assert_eq!(format!("{:?}", defaults.settings), format!("{:?}", from_template.settings));
}

#[test]
fn init_documents_every_key_with_its_default() {
    fn every_key(table: &Table, see: &mut impl FnMut(&Field)) {
        for field in table.all() {
            see(field);
            if let Shape::Table(inner) | Shape::Patterns(inner) = &field.shape {
                every_key(inner, see);
            }
        }
    }
    let text = template();
    every_key(global_schema(), &mut |field| {
        if let Presence::Default(default) = &field.presence {
            let line = format!("{} = {}", field.name, show::toml(default, broker_core::settings::Secret::No));
            assert!(text.lines().any(|written| written.trim_start_matches("# ") == line), "{line}");
        } else {
            assert!(text.contains(field.name), "{}", field.name);
        }
        for line in field.doc.lines() {
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
    let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{shown}"));
    assert!(line("durability = \"interval\"").ends_with("# environment variable HERALD_STORAGE__DURABILITY"));
    assert!(line("shards = 2").ends_with("# --set"));
    assert!(line("max_topics = 100000").ends_with("# default"));
    assert!(line("name = \"a\"").ends_with("herald.toml"));
    // `(hidden)@h` is still a valid URL, so the output can be checked again.
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
fn changes_are_reported_by_key() {
    let old = good("", &[], &[]);
    let new = good("[broker]\nlog = \"debug\"\n[topics.a]\nttl_ms = 1", &[], &[]);
    assert_eq!(changes(&old, &new), ["broker.log", "topics.a"]);
}

#[test]
fn sighup_applies_topics_tokens_and_the_log_filter_and_nothing_else() {
    let loaded = good("", &[], &[]);
    for (key, applied) in [
        ("broker.log", true),
        ("auth.tokens", true),
        ("topics.a", true),
        ("topics.\"a.*\".ttl_ms", true),
        ("broker.log_format", false),
        ("storage.path", false),
        ("transports.tcp.tls.cert", false),
        ("sources", false),
    ] {
        assert_eq!(loaded.is_reloaded(key), applied, "{key}");
    }
}
