//! The constructors of transports.

use crate::validate::TransportSettings;

/// What is wrong with a transport's settings, by key, as far as can be told without binding it.
pub(crate) fn transport_problems(settings: &TransportSettings) -> Vec<(&'static str, String)> {
    match settings.kind {
        #[cfg(feature = "ws")]
        "ws" => ws::problems(settings),
        _ => Vec::new(),
    }
}

/// The transports on a port of their own take the same settings for it.
#[cfg(any(feature = "tcp", feature = "ws"))]
macro_rules! listen_config {
    ($krate:ident, $settings:expr) => {
        $krate::ListenConfig {
            listen: $settings.listen,
            max_connections: $settings.max_connections,
            idle_timeout: $settings.idle_timeout,
            write_timeout: $settings.write_timeout,
            handshake_timeout: $settings.handshake_timeout,
            tls: $settings.tls.map(|tls| $krate::TlsFiles { cert: tls.cert, key: tls.key }),
        }
    };
}

#[cfg(feature = "tcp")]
pub(super) mod tcp {
    use transport_tcp::TcpTransport;

    use broker_core::transport::Transport;

    use crate::registry::Binding;
    use crate::validate::TransportSettings;

    pub(in crate::registry) fn bind(settings: TransportSettings) -> Binding {
        let config = listen_config!(transport_tcp, settings);
        Box::pin(async move { Ok(Box::new(TcpTransport::bind(config).await?) as Box<dyn Transport>) })
    }
}

#[cfg(feature = "ws")]
pub(super) mod ws {
    use transport_ws::{WsConfig, WsTransport, check_origin};

    use broker_core::transport::Transport;

    use crate::registry::Binding;
    use crate::settings::path::quoted;
    use crate::validate::TransportSettings;

    /// Everything there is to say against the settings, by key.
    pub(super) fn problems(settings: &TransportSettings) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
        if !settings.web.path.starts_with('/') || !settings.web.path.bytes().all(plain) {
            let path = quoted(&settings.web.path);
            problems
                .push(("path", format!("{path} is no path: expected one such as \"/ws\", without \"?\" and \"#\"")));
        }
        for origin in &settings.web.allowed_origins {
            if let Err(expected) = check_origin(origin) {
                problems.push(("allowed_origins", format!("{}: {expected}", quoted(origin))));
            }
        }
        problems
    }

    pub(in crate::registry) fn bind(settings: TransportSettings) -> Binding {
        let web = settings.web;
        let config = WsConfig {
            listen: listen_config!(transport_ws, settings),
            path: web.path,
            allowed_origins: web.allowed_origins,
            ping_interval: web.ping_interval,
        };
        Box::pin(async move { Ok(Box::new(WsTransport::bind(config).await?) as Box<dyn Transport>) })
    }
}
