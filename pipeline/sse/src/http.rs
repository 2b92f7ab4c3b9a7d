//! The HTTP client of a feed: its headers, redirects and proxy.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Client, Proxy, Url};

use super::config::{ProxyChoice, SseConfig, SseConfigError};
use super::response::EVENT_STREAM;
use super::state::shown_url;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The interval of TCP keep-alive probes, which detect a vanished peer even without an idle limit.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// The parts of a request that stay the same.
pub(super) struct Http {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// The proxy on the way to `url`, as it may be logged.
    pub(super) proxy: Option<String>,
}

impl Http {
    pub(super) fn new(config: &SseConfig) -> Result<Self, SseConfigError> {
        let (url, own_headers) = config.check()?;
        let route = Route::new(&config.proxy)?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(super::tls::settings(&config.tls)?)
            .connect_timeout(config.connect_timeout)
            .redirect(redirects(config.max_redirects, !own_headers.is_empty()))
            .tcp_keepalive(TCP_KEEPALIVE)
            // This client counts and delays every attempt itself, and none may reuse a connection that may be dead.
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0)
            .no_proxy();
        let proxy = route.proxy(&url).map(|proxy| shown_url(&proxy));
        if !matches!(route, Route::Direct) {
            client = client.proxy(Proxy::custom(move |url| route.proxy(url)));
        }
        let mut headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static(EVENT_STREAM)),
            // Some servers hold a compressed stream back until a block is full.
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (USER_AGENT, HeaderValue::from_static(concat!("herald/", env!("CARGO_PKG_VERSION")))),
        ]);
        headers.extend(own_headers);
        headers.remove(LAST_EVENT_ID);
        Ok(Self { client: client.build().map_err(SseConfigError::Client)?, url, headers, proxy })
    }
}

/// Follows up to `most` redirects. With configured headers, which may be secrets of this origin, none leads to another origin.
fn redirects(most: usize, has_own_headers: bool) -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(move |attempt| {
        let leaves = attempt.previous().first().is_some_and(|first| first.origin() != attempt.url().origin());
        if attempt.previous().len() > most {
            attempt.error("too many redirects")
        } else if leaves && has_own_headers {
            attempt.error("a redirect to another origin, which must not receive the configured headers")
        } else {
            attempt.follow()
        }
    })
}

/// The route to a server. Loopback is always reached directly.
enum Route {
    Direct,
    /// By the environment variables at the time that the client was created.
    Environment {
        rules: Box<hyper_util::client::proxy::matcher::Matcher>,
        http: Option<Url>,
        https: Option<Url>,
    },
    Fixed(Url),
}

impl Route {
    fn new(choice: &ProxyChoice) -> Result<Self, SseConfigError> {
        Ok(match choice {
            ProxyChoice::Direct => Self::Direct,
            ProxyChoice::Environment => {
                let all = variable(&["ALL_PROXY", "all_proxy"]);
                Self::Environment {
                    rules: Box::new(hyper_util::client::proxy::matcher::Matcher::from_env()),
                    http: variable(&["HTTP_PROXY", "http_proxy"]).or_else(|| all.clone()),
                    https: variable(&["HTTPS_PROXY", "https_proxy"]).or(all),
                }
            }
            ProxyChoice::Url(text) => {
                let unusable = |reason: String| SseConfigError::Proxy { reason };
                let url = Url::parse(text).map_err(|error| unusable(error.to_string()))?;
                if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
                    return Err(unusable(
                        "it is not \"env\", \"none\" or the URL of an http or https proxy".to_owned(),
                    ));
                }
                Self::Fixed(url)
            }
        })
    }

    /// The proxy for `url`, if any.
    fn proxy(&self, url: &Url) -> Option<Url> {
        if is_loopback(url) {
            return None;
        }
        match self {
            Self::Direct => None,
            Self::Fixed(proxy) => Some(proxy.clone()),
            Self::Environment { rules, http, https } => {
                // The rules apply NO_PROXY. Their answer lacks the credentials, which the variable has.
                rules.intercept(&url.as_str().parse().ok()?)?;
                if url.scheme() == "https" { https.clone() } else { http.clone() }
            }
        }
    }
}

fn variable(names: &[&str]) -> Option<Url> {
    let text = names.iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))?;
    if text.contains("://") { Url::parse(&text) } else { Url::parse(&format!("http://{text}")) }.ok()
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            let name = host.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn loopback_is_never_reached_through_a_proxy() {
        let route = Route::new(&ProxyChoice::Url("http://u:p@proxy.example:3128".to_owned())).unwrap();
        for local in [
            "http://localhost:1/",
            "http://a.LOCALHOST./",
            "http://127.9.9.9/",
            "https://[::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(route.proxy(&url(local)), None, "{local}");
        }
        for remote in ["http://feed.example/", "http://localhost.example/", "http://10.0.0.1/", "http://[2001:db8::1]/"]
        {
            assert_eq!(route.proxy(&url(remote)), Some(url("http://u:p@proxy.example:3128")), "{remote}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused() {
        for bad in ["", "proxy.example:3128", "socks5://proxy.example", "environment"] {
            let got = Route::new(&ProxyChoice::Url(bad.to_owned())).err();
            assert!(matches!(got, Some(SseConfigError::Proxy { .. })), "{bad}: {got:?}");
        }
    }
}
