//! Variables that a container platform sets for a service called `herald`, which are no settings.
//!
//! For each service of a namespace Kubernetes sets `HERALD_SERVICE_HOST`, `HERALD_SERVICE_PORT` (and one with the name of each port),
//! `HERALD_PORT=tcp://…` and `HERALD_PORT_8000_TCP…`; a linked Docker container gets the last two, `HERALD_NAME` and `HERALD_ENV_…`. A
//! service called `herald-events` has the same with `HERALD_EVENTS_` before it.

/// Whether a variable that is no key looks like such a link. `rest` is its name without `HERALD_`.
pub(super) fn is_one(rest: &str, value: &str) -> bool {
    // Keys have levels, separated by two underscores; names of services do not.
    if rest.contains("__") {
        return false;
    }
    let words: Vec<&str> = rest.split('_').collect();
    let is_number = |word: &str| word.parse::<u16>().is_ok();
    let is_protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let ends = |tail: &[&str]| words.ends_with(tail);
    if ends(&["SERVICE", "HOST"]) {
        return true;
    }
    // The name of a port may follow.
    if words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]) {
        return is_number(value);
    }
    if ends(&["PORT"]) {
        return is_url || is_number(value);
    }
    let port = words.windows(3).position(|part| part[0] == "PORT" && is_number(part[1]) && is_protocol(part[2]));
    if let Some(at) = port {
        return match words.get(at + 3..).unwrap_or_default() {
            [] => is_url,
            ["PROTO" | "PORT" | "ADDR"] | ["PORT" | "PROTO", "START" | "END"] | ["START" | "END"] => true,
            _ => false,
        };
    }
    (ends(&["NAME"]) && value.starts_with('/')) || rest.starts_with("ENV_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_and_docker_set_for_a_service_called_herald_is_recognized() {
        for (name, value) in [
            ("PORT", "tcp://10.0.0.7:8000"),
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_HOST", "fd00::7"),
            ("SERVICE_PORT", "8000"),
            ("SERVICE_PORT_TELNET", "8000"),
            ("SERVICE_PORT_WEB_SOCKET", "8001"),
            ("PORT_8000_TCP", "tcp://10.0.0.7:8000"),
            ("PORT_8000_TCP_PROTO", "tcp"),
            ("PORT_8000_TCP_PORT", "8000"),
            ("PORT_8000_TCP_ADDR", "10.0.0.7"),
            ("PORT_53_UDP", "udp://10.0.0.7:53"),
            ("NAME", "/web/herald"),
            ("ENV_RUST_LOG", "info"),
            ("EVENTS_PORT", "tcp://10.0.0.8:8000"),
            ("EVENTS_SERVICE_HOST", "10.0.0.8"),
            ("EVENTS_PORT_8000_TCP_ADDR", "10.0.0.8"),
        ] {
            assert!(is_one(name, value), "{name}={value}");
        }
    }

    #[test]
    fn a_mistyped_key_is_still_one() {
        for (name, value) in [
            ("STORAGE_PATH", "data"),
            ("STORAGE__PORT", "8000"),
            ("PORT", "data"),
            ("NAME", "events"),
            ("TRANSPORTS__TCP__PORT", "8000"),
            ("LISTEN_PORT_8000", "x"),
            ("BROKER", ""),
        ] {
            assert!(!is_one(name, value), "{name}={value}");
        }
    }
}
