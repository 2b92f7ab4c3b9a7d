//! `[transports.…]`.

use std::sync::Arc;

use broker_core::settings::TransportConfig;
use broker_core::settings::text::quoted;
use serde_json::Value;

use super::{Validate, publish};
use crate::registry::{Entry, Seam};
use crate::settings::path::below;

/// A transport that is enabled.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// The kind, as the registry calls it.
    pub kind: &'static str,
    /// The transport's configuration, which binds its listener.
    pub config: Arc<dyn TransportConfig>,
}

pub(super) fn transports(validate: &mut Validate<'_>) -> Vec<TransportSettings> {
    // Where sources publish to a broker elsewhere, the default transport is off.
    let elsewhere = publish::is_elsewhere(validate);
    let mut transports = Vec::new();
    for kind in validate.registry.kinds(Seam::Transport) {
        let path = below("transports", kind.kind);
        if !elsewhere || validate.is_written(&path) {
            transports.extend(transport(validate, &path, kind.kind));
        }
    }
    report_shared_addresses(validate, transports.iter().map(|transport: &TransportSettings| transport.kind));
    let is_broken = validate.problems.iter().any(|problem| problem.key.starts_with("transports"));
    if transports.is_empty() && !elsewhere && !is_broken {
        let text = match validate.registry.default_transport() {
            Some(kind) => {
                format!("no transport is on, so no client could connect: set transports.{kind}.enabled = true")
            }
            None => "this build has no transport, so no client could connect: rebuild with --features tcp".to_owned(),
        };
        validate.problem("transports", text);
    }
    transports
}

/// The transport's settings; `None` if it is off or unusable.
fn transport(validate: &mut Validate<'_>, path: &str, kind: &str) -> Option<TransportSettings> {
    let mut values = validate.table("transports")?.get(kind)?.as_object()?.clone();
    if values.remove("enabled") == Some(Value::Bool(false)) {
        return None;
    }
    // The check has reported a kind that is unavailable.
    let (kind, plugin) = Entry::plugin(&validate.registry.transports, kind)?;
    let configured = (plugin.configure)(&values);
    let config = configured.map_err(|problems| validate.plugin_problems(path, problems)).ok()?;
    Some(TransportSettings { kind, config })
}

/// Reports listeners that would bind the same port of one address, including the pipeline's console.
fn report_shared_addresses(validate: &mut Validate<'_>, kinds: impl Iterator<Item = &'static str>) {
    let text = |validate: &Validate<'_>, tables: &[&str], key: &str| {
        let first = validate.table(tables[0])?;
        let table = tables[1..].iter().try_fold(first, |table, name| table.get(*name)?.as_object())?;
        table.get(key)?.as_str().map(str::to_owned)
    };
    let mut taken: Vec<(String, String)> = Vec::new();
    let mut listeners: Vec<(String, Option<String>)> = kinds
        .map(|kind| (format!("transports.{kind}.listen"), text(validate, &["transports", kind], "listen")))
        .collect();
    listeners.push(("pipeline.console".to_owned(), text(validate, &["pipeline"], "console")));
    for (key, address) in listeners {
        let Some(address) = address.filter(|address| !address.is_empty()) else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, other)| collide(other, &address)) {
            validate.problem(&key, format!("{} is what {other} listens on: choose another port", quoted(&address)));
        }
        taken.push((key, address));
    }
}

/// Whether two addresses cannot both be bound: the same port, and the same host or one that stands for all of this machine's.
fn collide(one: &str, other: &str) -> bool {
    let (Some((host, port)), Some((other_host, other_port))) = (one.rsplit_once(':'), other.rsplit_once(':')) else {
        return false;
    };
    let all = |host: &str| matches!(host, "0.0.0.0" | "[::]");
    port == other_port && port.parse() != Ok(0u16) && (host == other_host || all(host) || all(other_host))
}

#[cfg(test)]
mod tests {
    use super::collide;

    #[test]
    fn addresses_collide_on_one_port_of_one_host() {
        assert!(collide("127.0.0.1:8000", "127.0.0.1:8000"));
        assert!(collide("0.0.0.0:8000", "127.0.0.1:8000"));
        assert!(collide("[::1]:8000", "[::]:8000"));
        assert!(!collide("127.0.0.1:8000", "127.0.0.1:8001"));
        assert!(!collide("127.0.0.1:8000", "127.0.0.2:8000"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
    }
}
