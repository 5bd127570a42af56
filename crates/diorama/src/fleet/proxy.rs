//! The proxy that a company's network has: it is never asked for this machine, and named where it may be in the way.

use reqwest::{ClientBuilder, Url};

/// A client of `address`: of one on this machine, without a proxy.
pub(super) fn builder(address: &str) -> ClientBuilder {
    let client = reqwest::Client::builder();
    if is_loopback(address) { client.no_proxy() } else { client }
}

/// What to say about a proxy where `address` was not reached.
pub(super) fn hint(address: &str) -> String {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|proxy| !proxy.is_empty());
    hint_of(address, &|name| is_set(&name))
}

fn hint_of(address: &str, is_set: &dyn Fn(&str) -> bool) -> String {
    let Some(url) = Url::parse(address).ok().filter(|_| !is_loopback(address)) else { return String::new() };
    let of_the_scheme =
        if url.scheme() == "https" { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let host = url.host_str().unwrap_or_default();
    let set = of_the_scheme.into_iter().chain(["ALL_PROXY", "all_proxy"]).find(|name| is_set(name));
    set.map_or_else(String::new, |name| format!(" A proxy is used, because {name} is set; NO_PROXY={host} bypasses it"))
}

/// Whether an address is this machine's own.
fn is_loopback(address: &str) -> bool {
    let Ok(url) = Url::parse(address) else { return false };
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.ends_with(".localhost");
    is_local || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_each_of_its_names() {
        for own in [
            "http://127.0.0.1:8700",
            "http://localhost:8700",
            "http://[::1]:1",
            "https://127.9.9.9",
            "http://a.localhost",
        ] {
            assert!(is_loopback(own), "{own}");
        }
        for other in ["http://10.0.0.1:8700", "http://localhost.example.org", "https://diorama.example.org", "nonsense"]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn a_proxy_is_named_where_it_is_asked() {
        let hint = |address: &str, set: &str| hint_of(address, &|name| name == set);
        assert!(hint("http://far.example.org", "HTTP_PROXY").contains("NO_PROXY=far.example.org"));
        assert!(hint("https://far.example.org", "ALL_PROXY").contains("ALL_PROXY is set"));
        for (address, set) in
            [("http://127.0.0.1:1", "HTTP_PROXY"), ("https://far.example.org", "HTTP_PROXY"), ("http://far", "")]
        {
            assert_eq!(hint(address, set), "");
        }
    }
}
