//! What a person should know about a configuration that is allowed all the same.

use std::net::SocketAddr;

use super::Listener;
use crate::settings::Durability;
use crate::validate::StorageSettings;

pub(super) fn warn_of_durability(storage: &StorageSettings) {
    match storage.durability {
        Durability::Always => {}
        Durability::Interval => tracing::warn!(
            durability = "interval",
            sync_interval_ms = u64::try_from(storage.sync_interval.as_millis()).unwrap_or(u64::MAX),
            "a power failure may lose events that were confirmed in the last interval; storage.durability = \"always\" does not"
        ),
        Durability::Never => tracing::warn!(
            durability = "never",
            "a crash of the broker may lose events that were confirmed; storage.durability = \"always\" does not"
        ),
    }
    if storage.clean_on_start {
        tracing::warn!(path = %storage.path.display(), "storage.clean_on_start is on: whatever was stored has been deleted");
    }
}

/// Beyond this machine, tokens are what keeps strangers out, and TLS is what keeps tokens secret.
pub(super) fn warn_of_exposure(listener: &Listener, tokens: bool) {
    let loopback = listener.addr.parse::<SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback());
    let Listener { transport, addr, encrypted } = listener;
    match (loopback, tokens, *encrypted) {
        (true, ..) | (false, true, true) => {}
        (false, false, _) => tracing::warn!(
            %transport,
            %addr,
            "no tokens are configured: anyone who can reach this address may publish and subscribe; see [auth]"
        ),
        (false, true, false) => tracing::warn!(
            %transport,
            %addr,
            "tokens and events go over the network in the clear here: transports.{transport}.tls encrypts them"
        ),
    }
}
