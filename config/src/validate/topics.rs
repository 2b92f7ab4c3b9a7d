//! `[topics."pattern"]`.

use std::collections::BTreeMap;

use broker_core::name::{MAX_NAME_BYTES, TopicName};
use broker_core::policy::{DuplicateId, Overflow, Policies, TopicPolicy};
use broker_core::settings::text::quoted;
use serde::Deserialize;

use super::Validate;
use crate::settings::path::below;

/// The values of `[topics."pattern"]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    auto_create: bool,
    #[serde(with = "DuplicateIdWord")]
    duplicate_id: DuplicateId,
    max_waiting: u64,
    max_waiting_bytes: u64,
    ack_timeout_ms: u64,
    ttl_ms: u64,
    #[serde(with = "OverflowWord")]
    overflow: Overflow,
    max_deliveries: u64,
    dead_letter: String,
    expired_to_dead_letter: bool,
}

/// The words for [`Overflow`] in a configuration.
#[derive(Deserialize)]
#[serde(remote = "Overflow", rename_all = "kebab-case")]
enum OverflowWord {
    Reject,
    DropLowest,
    DeadLetter,
}

/// The words for [`DuplicateId`] in a configuration.
#[derive(Deserialize)]
#[serde(remote = "DuplicateId", rename_all = "kebab-case")]
enum DuplicateIdWord {
    Replace,
    Reject,
    Keep,
}

pub(super) fn topics(validate: &mut Validate<'_>) -> Option<Policies> {
    let topics: BTreeMap<String, Rules> = validate.read("topics")?;
    let mut policies = Vec::new();
    for (pattern, rules) in topics {
        let path = below("topics", &pattern);
        if let Err(text) = check_pattern(&pattern) {
            validate.problem(&path, text);
        }
        check_dead_letter(validate, &path, &pattern, &rules.dead_letter);
        policies.push((pattern, policy(rules)));
    }
    Some(Policies::new(policies))
}

fn check_dead_letter(validate: &mut Validate<'_>, path: &str, pattern: &str, dead_letter: &str) {
    let is_name = TopicName::new(&dead_letter.replace("{topic}", "x")).is_ok();
    let is_another = dead_letter != "{topic}" && dead_letter != pattern;
    if is_name && is_another && dead_letter.matches("{topic}").count() <= 1 {
        return;
    }
    let dead_letter = quoted(dead_letter);
    let text = format!(
        "{dead_letter} is no name for another topic: expected one such as \"{{topic}}.dead\", with {{topic}} at most once"
    );
    validate.problem(&below(path, "dead_letter"), text);
}

fn policy(rules: Rules) -> TopicPolicy {
    TopicPolicy {
        auto_create: rules.auto_create,
        duplicate_id: rules.duplicate_id,
        max_waiting: rules.max_waiting,
        max_waiting_bytes: rules.max_waiting_bytes,
        ack_timeout_ms: rules.ack_timeout_ms,
        overflow: rules.overflow,
        ttl_ms: rules.ttl_ms,
        max_deliveries: u32::try_from(rules.max_deliveries).unwrap_or(u32::MAX),
        dead_letter: rules.dead_letter,
        expired_to_dead_letter: rules.expired_to_dead_letter,
        // Set for each topic when it is created.
        keeps: false,
        named: false,
    }
}

/// Fails unless some topic can match `pattern`: all but its stars must be valid in a topic's name.
pub(super) fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    let name = pattern.replace('*', "x");
    if pattern.is_empty() || TopicName::new(&name).is_err() || pattern.len() > MAX_NAME_BYTES {
        return Err("no topic can match this pattern: expected A-Z a-z 0-9 . _ : - and *, not beginning with a dot");
    }
    Ok(())
}
