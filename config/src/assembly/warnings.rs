//! Warnings about configurations that are valid but risky.

use std::net::SocketAddr;

use broker_core::settings::Durability;

use super::Listener;
use crate::validate::{BrokerSettings, StorageSettings};

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

/// `longest`: the longest delivery, of events that are stored too.
pub(super) fn warn_of_limits(broker: &BrokerSettings, longest: usize) {
    if let Some(reason) = broker.unfit_limits() {
        tracing::warn!(%reason, "two limits do not fit together");
    }
    let configured = broker.max_output_line_bytes;
    if longest > configured {
        tracing::warn!(
            longest,
            configured,
            "stored events exceed broker.max_output_line_bytes: clients are told the longer limit"
        );
    }
}

/// Warns about a listener beyond loopback without tokens, which keep strangers out, or without TLS, which keeps the tokens
/// secret.
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
            key = %format_args!("transports.{transport}.tls"),
            "tokens and events go over the network in the clear here, which this key prevents"
        ),
    }
}
