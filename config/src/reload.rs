//! Reload: what SIGHUP applies while the broker runs.

use crate::assembly::Broker;
use crate::logging::LogControl;
use crate::settings::{Inputs, Loaded, changes, load};

/// Reads the configuration again and applies the reloadable keys: all of them if it is valid, else nothing.
pub(crate) async fn reload(inputs: &Inputs, running: &Loaded, broker: &Broker, log: &LogControl) {
    let now = match load(inputs) {
        Ok(now) => now,
        Err(error) => {
            tracing::error!(%error, "SIGHUP: the configuration is not valid, so nothing has changed");
            return;
        }
    };
    if !broker.reload(&now.settings).await {
        return;
    }
    let filter = &now.settings.broker.log;
    match log.change(filter) {
        Ok(()) => {
            tracing::info!(log = %filter, "SIGHUP: the configuration was read again; of it, topics, auth.tokens and broker.log are in force");
        }
        Err(error) => tracing::error!(%error, "SIGHUP: broker.log has not changed"),
    }
    for key in changes(running, &now).into_iter().filter(|key| !now.is_reloaded(key)) {
        tracing::warn!(key = %key, "SIGHUP: this key has changed, and needs a restart");
    }
}
