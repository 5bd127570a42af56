//! Without tokens whoever reaches the API may do anything, and a browser on this machine reaches it for any page that it
//! shows. So such a coordinator answers to the names of this machine only, and changes nothing for another page.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, header};

use diorama_core::text;

use super::is_safe;
use crate::api::{Problem, session};

/// Headers that browsers send, pages cannot leave out, and other clients have no use for.
const OF_BROWSERS: [&str; 5] = ["origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"];

/// Refuses a request that was sent to another name than this machine's: a name that a page elsewhere made lead here.
pub(super) fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter().map(|host| String::from_utf8_lossy(host.as_bytes()));
    match hosts.find(|host| !is_loopback(host)) {
        None => Ok(()),
        Some(host) => {
            let message = format!(
                "without a --tokens-file the API answers to localhost only, and this request was sent to {}: give \
                 the coordinator tokens, or reach it as localhost",
                text::quoted(&host)
            );
            Err(Problem::new(403, "foreign_host", message))
        }
    }
}

/// Lets a request through that this machine sent for itself.
pub(super) fn check_local(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    check_host(headers)?;
    let header = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let host = header("host").unwrap_or("localhost".into());
    let foreign = |page: &str| Problem::new(403, "foreign_page", format!("{page} may not use this API"));
    // Also a picture or a script that a page elsewhere would show or run; a link to follow is the user's.
    let is_followed = is_safe(method) && header("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    if header("sec-fetch-site").is_some_and(|site| site == "cross-site") && !is_followed {
        return Err(foreign("a page of another site"));
    }
    if is_safe(method) {
        return Ok(());
    }
    if header("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return Err(foreign("another page"));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        if origin.split_once("://").is_none_or(|(_, origin)| origin != host) {
            return Err(foreign(&format!("a page of {}", text::quoted(&origin))));
        }
    }
    match OF_BROWSERS.iter().any(|name| headers.contains_key(*name)) {
        true => session::check_page(headers),
        false => Ok(()),
    }
}

/// Whether a `Host` is this machine's own name or address, whatever the port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn check(method: Method, sent: &[(&'static str, &str)]) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        check_local(&method, &headers).map_err(|problem| problem.code)
    }

    #[test]
    fn only_this_machine_and_its_own_page_change_anything() {
        let host = ("host", "127.0.0.1:8700");
        let page = ("diorama-page", "1");
        for fine in [
            &[][..],
            &[host],
            &[("host", "localhost:8700")],
            &[("host", "[::1]:8700")],
            &[host, ("origin", "http://127.0.0.1:8700"), ("sec-fetch-site", "same-origin"), page],
        ] {
            assert_eq!(check(Method::POST, fine), Ok(()), "{fine:?}");
        }
        for (sent, code) in [
            (&[("host", "evil.example:8700")][..], "foreign_host"),
            (&[("host", "localhost.evil.example")], "foreign_host"),
            (&[("host", "127.0.0.1.evil.example")], "foreign_host"),
            (&[host, ("host", "evil.example")], "foreign_host"),
            (&[host, ("origin", "https://evil.example"), page], "foreign_page"),
            (&[host, ("origin", "null"), page], "foreign_page"),
            (&[host, ("origin", "http://127.0.0.1:1"), page], "foreign_page"),
            (&[host, ("origin", "http://127.0.0.1:8700.evil.example"), page], "foreign_page"),
            (&[host, ("origin", "http://127.0.0.1:8700"), ("origin", "null"), page], "foreign_page"),
            (&[host, ("sec-fetch-site", "cross-site"), page], "foreign_page"),
            (&[host, ("sec-fetch-site", "same-site"), page], "foreign_page"),
            (&[host, ("sec-fetch-site", "none"), page], "foreign_page"),
            (&[host, ("sec-fetch-site", "same-origin")], "not_from_the_page"),
            (&[host, ("origin", "http://127.0.0.1:8700")], "not_from_the_page"),
            (&[host, ("referer", "http://evil.example/")], "not_from_the_page"),
        ] {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                assert_eq!(check(method, sent), Err(code.to_owned()), "{sent:?}");
            }
        }
    }

    #[test]
    fn a_page_elsewhere_reads_nothing_and_a_link_there_may_be_followed() {
        let host = ("host", "localhost:8700");
        assert_eq!(check(Method::GET, &[host, ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")]), Ok(()));
        assert_eq!(
            check(Method::GET, &[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]),
            Ok(())
        );
        let shown = [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
        assert_eq!(check(Method::GET, &shown), Err("foreign_page".to_owned()));
        assert_eq!(check(Method::GET, &[("host", "evil.example")]), Err("foreign_host".to_owned()));
    }
}
