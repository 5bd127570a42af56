//! Which addresses a reference may be fetched from. Names are resolved here, so that what was checked is what is
//! connected to: a name cannot lead to one address when it is checked and to another one when it is used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// An address, or a name that leads to none other, from which nothing is fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is {kind}, from which no reference is fetched{}", .kind.advice())]
pub(super) struct Forbidden {
    /// As the URL has it; where it is a name, with the address that it leads to.
    host: String,
    kind: Kind,
}

/// What an address is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of the internet.
    Public,
    /// This machine's or this network's; fetched from where the setting says so.
    Private,
    /// Link-local, a cloud's metadata, multicast, reserved, or an address inside another one: never fetched from.
    Never,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Never => "a link-local, metadata, multicast or reserved address",
        })
    }
}

impl Kind {
    fn advice(self) -> &'static str {
        match self {
            Self::Private => "; if it is your own server, set allow_private_references on the workers",
            Self::Public | Self::Never => "",
        }
    }

    fn is_allowed(self, private: bool) -> bool {
        match self {
            Self::Public => true,
            Self::Private => private,
            Self::Never => false,
        }
    }

    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            // Metadata services that do not live on link-local addresses: of Alibaba, of Oracle.
            [100, 100, 100, 200] | [192, 0, 0, 192] => Self::Never,
            // Private use (RFC 1918), shared address space (RFC 6598), loopback.
            [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] | [127, ..] => Self::Private,
            // This network, link-local (metadata of most clouds), protocol assignments, documentation, the old relays of
            // 6to4, benchmarks, multicast, reserved and broadcast (RFC 6890).
            [0, ..]
            | [169, 254, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..] => Self::Never,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let segments = address.segments();
        match segments {
            // Amazon's metadata.
            [0xFD00, 0xEC2, 0, 0, 0, 0, 0, 0x254] => Self::Never,
            // Loopback; unique local (RFC 4193).
            [0, 0, 0, 0, 0, 0, 0, 1] | [0xFC00..=0xFDFF, ..] => Self::Private,
            // NAT64 (RFC 6052): the way to IPv4 of networks that have none, so what is inside counts.
            [0x64, 0xFF9B, 0, 0, 0, 0, high, low] => {
                Self::of_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
            }
            // Protocol assignments with Teredo, documentation, 6to4, and again documentation.
            [0x2001, 0..=0x1FF | 0xDB8, ..] | [0x2002, ..] | [0x3FFF, 0..=0xFFF, ..] => Self::Never,
            [0x2000..=0x3FFF, ..] => Self::Public,
            // Nothing else is of the internet: unspecified, IPv4-mapped, link-local, multicast, what is not assigned.
            _ => Self::Never,
        }
    }
}

/// Checks a URL's host where it is an address; a name is checked when it is resolved.
pub(super) fn check_host(url: &Url, private: bool) -> Result<(), Forbidden> {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    let kind = Kind::of(address);
    if kind.is_allowed(private) { Ok(()) } else { Err(Forbidden { host: address.to_string(), kind }) }
}

/// Resolves names as the system does, and keeps the addresses that may be connected to.
pub(super) struct Resolver {
    /// Whether private addresses are among them.
    pub(super) private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = allowed(name.as_str(), found, private)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn allowed(name: &str, mut found: Vec<SocketAddr>, private: bool) -> Result<Vec<SocketAddr>, Forbidden> {
    let first = found.first().map(SocketAddr::ip);
    found.retain(|address| Kind::of(address.ip()).is_allowed(private));
    match first {
        Some(first) if found.is_empty() => Err(Forbidden { host: format!("{name} ({first})"), kind: Kind::of(first) }),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str, private: bool) -> bool {
        check_host(&Url::parse(&format!("https://{host}/x.png")).unwrap(), private).is_err()
    }

    #[test]
    fn addresses_of_the_internet_are_fetched_from() {
        for host in [
            "1.1.1.1",
            "93.184.216.34",
            "172.15.255.255",
            "172.32.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "223.255.255.255",
            "[2606:4700::1111]",
            "[2a00:1450:4001:81b::200e]",
            "[64:ff9b::101:101]",
        ] {
            assert!(!refused(host, false), "{host}");
        }
    }

    #[test]
    fn private_addresses_are_fetched_from_only_where_the_setting_says_so() {
        for host in [
            "10.0.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "[::1]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "[64:ff9b::a00:1]",
            // The same in the disguises that a URL allows.
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
        ] {
            assert!(refused(host, false), "{host}");
            assert!(!refused(host, true), "{host}");
        }
    }

    #[test]
    fn what_is_nobodys_store_is_never_fetched_from() {
        for host in [
            "169.254.169.254",
            "169.254.1.1",
            "100.100.100.200",
            "192.0.0.192",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:1.1.1.1]",
            "[::127.0.0.1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[2002:7f00:1::]",
            "[3fff::1]",
            "[fd00:ec2::254]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::1]",
        ] {
            assert!(refused(host, false) && refused(host, true), "{host}");
        }
    }

    #[test]
    fn of_a_name_with_several_addresses_the_allowed_ones_are_used() {
        let public: SocketAddr = "1.1.1.1:0".parse().unwrap();
        let private: SocketAddr = "10.0.0.1:0".parse().unwrap();
        assert_eq!(allowed("store", vec![private, public], false), Ok(vec![public]));
        assert_eq!(allowed("store", vec![private, public], true), Ok(vec![private, public]));
        let error = allowed("store", vec![private], false).unwrap_err().to_string();
        assert!(error.starts_with("store (10.0.0.1) is a private address"), "{error}");
        assert!(error.contains("allow_private_references"), "{error}");
    }
}
