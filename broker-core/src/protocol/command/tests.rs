//! Lines, and the commands or errors that they are.

use super::*;
use crate::event::{Priority, Seq};
use crate::protocol::event::MAX_MS;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn read(line: &str) -> Result<Command<'_>, CommandError<'_>> {
    static WORDS: std::sync::LazyLock<CommandWords> = std::sync::LazyLock::new(CommandWords::default);
    parse(line, &WORDS, &mut None)
}

#[test]
fn words_are_separated_by_blanks_and_matched_without_case() {
    assert_eq!(
        read("PuB \t t  {\"id\": \"a  b\"}"),
        Ok(Command::Publish { topic: topic("t"), event: "{\"id\": \"a  b\"}" })
    );
    assert_eq!(read("SUBSCRIBE t"), Ok(Command::Subscribe { topic: topic("t"), name: None }));
    assert_eq!(read("sub t  s"), Ok(Command::Subscribe { topic: topic("t"), name: SubscriptionName::new("s").ok() }));
    assert_eq!(read("ack t a  b\tc"), Ok(Command::Acknowledge { topic: topic("t"), ids: vec!["a", "b", "c"] }));
    assert_eq!(read("acknowledge t *"), Ok(Command::AcknowledgeAll { topic: topic("t") }));
    assert_eq!(read("nack t a"), Ok(Command::Nack { topic: topic("t"), id: "a", delay_ms: 0 }));
    assert_eq!(read("nack t a 1500"), Ok(Command::Nack { topic: topic("t"), id: "a", delay_ms: 1500 }));
    assert_eq!(read("stats"), Ok(Command::Stats { topic: None }));
    assert_eq!(read("STATS t"), Ok(Command::Stats { topic: Some(topic("t")) }));
}

#[test]
fn too_few_or_too_many_words_are_answered_with_the_form() {
    for (line, form) in [
        ("pub", "pub <topic> <event>"),
        ("publish t", "pub <topic> <event>"),
        ("pub a/b", "pub <topic> <event>"),
        ("sub", "sub <topic> [<name>]"),
        ("sub t s x", "sub <topic> [<name>]"),
        ("unsub t s x", "unsub <topic> [<name>]"),
        ("detach t x", "detach <topic>"),
        ("ack t", "ack <topic> <id> [<id> …] or ack <topic> *"),
        ("nack t", "nack <topic> <id> [<delay_ms>]"),
        ("nack t a 1 2", "nack <topic> <id> [<delay_ms>]"),
        ("touch t a b", "touch <topic> <id>"),
        ("term t", "term <topic> <id> [<reason …>]"),
        ("peek", "peek <topic> [<subscription>] [<n>] [after <position>]"),
        ("peek t s 1 x", "peek <topic> [<subscription>] [<n>] [after <position>]"),
        ("peek t s after 7", "peek <topic> [<subscription>] [<n>] [after <position>]"),
        ("peek t s 1 x after start", "peek <topic> [<subscription>] [<n>] [after <position>]"),
        ("redrive t 1 x", "redrive <topic> [<n>]"),
        ("purge t s x", "purge <topic> [<subscription>]"),
        ("topics x", "topics"),
        ("stats t x", "stats [<topic>]"),
        ("ping x", "ping"),
        ("hello", r#"hello {"prefetch":10,"replies":"quiet","confirm":true}"#),
    ] {
        assert_eq!(read(line), Err(CommandError::Usage(form.into())), "{line}");
    }
}

#[test]
fn a_peek_goes_on_after_a_position() {
    let name = |name| SubscriptionName::new(name).ok();
    let key = |priority, seq| EventKey { priority: Priority(priority), seq: Seq(seq) };
    let peek = |name, most, after| Ok(Command::Peek { topic: topic("t"), name, most, after: Some(after) });
    assert_eq!(read("peek t after start"), peek(None, 10, EventKey::START));
    assert_eq!(read("peek t s AFTER 0:7"), peek(name("s"), 10, key(0, 7)));
    assert_eq!(read("peek t 5 after -3:7"), peek(None, 5, key(-3, 7)));
    assert_eq!(read("peek t s 5 after 2147483647:18446744073709551615"), peek(name("s"), 5, key(i32::MAX, u64::MAX)));
    // A subscription may be called `after`.
    let called = |most| Ok(Command::Peek { topic: topic("t"), name: name("after"), most, after: None });
    assert_eq!((read("peek t after"), read("peek t after 5")), (called(10), called(5)));
    assert_eq!(read("peek t after after start"), peek(name("after"), 10, EventKey::START));
    for wrong in ["0:", ":7", "0:-7", "0:+7", "x:7", "0:7:1", "2147483648:1", "0:18446744073709551616"] {
        assert_eq!(read(&format!("peek t s 5 after {wrong}")), Err(CommandError::Position(wrong)));
    }
}

#[test]
fn one_word_of_digits_after_peek_is_a_number() {
    let name = |name| SubscriptionName::new(name).ok();
    let peek = |name, most| Ok(Command::Peek { topic: topic("t"), name, most, after: None });
    assert_eq!(read("peek t"), peek(None, 10));
    assert_eq!(read("peek t 3"), peek(None, 3));
    assert_eq!(read("peek t s"), peek(name("s"), 10));
    assert_eq!(read("peek t s 1000"), peek(name("s"), 1000));
    assert_eq!(read("peek t 5 7"), peek(name("5"), 7));
    assert_eq!(read("peek t 0"), Err(CommandError::Count("0", 1000)));
    assert_eq!(read("peek t s 1001"), Err(CommandError::Count("1001", 1000)));
    assert_eq!(read("peek t s -1"), Err(CommandError::Count("-1", 1000)));
    assert_eq!(read("peek t a/b"), Err(CommandError::Subscription("a/b", NameError::Character)));
    assert_eq!(read("redrive t"), Ok(Command::Redrive { topic: topic("t"), most: None }));
    assert_eq!(read("REDRIVE t 7"), Ok(Command::Redrive { topic: topic("t"), most: Some(7) }));
    assert_eq!(read("redrive t s"), Err(CommandError::Count("s", MAX_MS)));
    assert_eq!(read("purge t 5"), Ok(Command::Purge { topic: topic("t"), name: name("5") }));
}

#[test]
fn a_note_is_the_rest_of_the_line() {
    let term = |note| Ok(Command::Terminate { topic: topic("t"), id: "a", note });
    assert_eq!(read("term t a"), term(None));
    assert_eq!(read("term t  a  no  such \"user\""), term(Some("no  such \"user\"")));
}

#[test]
fn an_event_may_be_called_star() {
    assert_eq!(read("ack t *"), Ok(Command::AcknowledgeAll { topic: topic("t") }));
    assert_eq!(read("ack t * *"), Ok(Command::Acknowledge { topic: topic("t"), ids: vec!["*", "*"] }));
    assert_eq!(read("ack t a *"), Ok(Command::Acknowledge { topic: topic("t"), ids: vec!["a", "*"] }));
}

#[test]
fn a_topics_name_is_looked_at_before_what_follows_it() {
    assert_eq!(read("pub a/b nonsense"), Err(CommandError::Topic("a/b", NameError::Character)));
    assert_eq!(read("sub a/b ../c"), Err(CommandError::Topic("a/b", NameError::Character)));
    assert_eq!(read("sub t ../c"), Err(CommandError::Subscription("../c", NameError::LeadingDot)));
    assert_eq!(read("nack a/b x y"), Err(CommandError::Topic("a/b", NameError::Character)));
    for delay in ["-1", "+1", "x", "1.5", "9007199254740992", "99999999999999999999"] {
        let line = format!("nack t a {delay}");
        assert_eq!(read(&line), Err(CommandError::Delay(delay)), "{line}");
    }
    assert_eq!(read("subb t"), Err(CommandError::Unknown("subb t")));
}

#[test]
fn renamed_words_mean_what_they_are_named_and_the_long_ones_stay() {
    let words = CommandWords { publish: "Say".into(), acknowledge: "done".into(), ..CommandWords::default() };
    assert_eq!(words.validate(), Ok(()));
    assert!(matches!(parse("sAY t {}", &words, &mut None), Ok(Command::Publish { .. })));
    assert!(matches!(parse("publish t {}", &words, &mut None), Ok(Command::Publish { .. })));
    assert_eq!(parse("pub t {}", &words, &mut None), Err(CommandError::Unknown("pub t {}")));
    assert_eq!(parse("say t", &words, &mut None), Err(CommandError::Usage("Say <topic> <event>".into())));
}

#[test]
fn a_topic_that_is_named_again_is_the_same_and_another_is_another() {
    let (words, mut last) = (CommandWords::default(), None);
    for name in ["a", "a", "ab", "a"] {
        let line = format!("pub {name} {{}}");
        assert_eq!(parse(&line, &words, &mut last), Ok(Command::Publish { topic: topic(name), event: "{}" }));
    }
    assert!(matches!(parse("pub .a {}", &words, &mut last), Err(CommandError::Topic(".a", _))));
    assert_eq!(last, Some(topic("a")), "what is wrong is not remembered");
}

#[test]
fn words_that_clash_are_refused() {
    let clash = |f: fn(&mut CommandWords)| {
        let mut words = CommandWords::default();
        f(&mut words);
        words.validate().err().map(|problems| problems.iter().map(|(key, _)| *key).collect::<Vec<_>>())
    };
    assert_eq!(clash(|w| w.publish = "SUB".into()), Some(vec!["subscribe"]));
    assert_eq!(clash(|w| w.publish = "ping".into()), Some(vec!["publish"]));
    assert_eq!(clash(|w| w.publish = "Subscribe".into()), Some(vec!["publish"]));
    assert_eq!(clash(|w| w.publish = "purge".into()), Some(vec!["publish"]));
    assert_eq!(clash(|w| w.publish = "publish".into()), None);
    assert_eq!(clash(|w| w.unsubscribe = "a b".into()), Some(vec!["unsubscribe"]));
    assert_eq!(clash(|w| w.unsubscribe = String::new()), Some(vec!["unsubscribe"]));
}
