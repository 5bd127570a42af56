//! Where the program listens: an address that is not one, or that is taken, says what to do.

use std::io::ErrorKind;

use tokio::net::TcpListener;

use crate::exit::Failure;

/// Listens at `address`, which came from `key`. A wrong address is a wrong command line, a taken one may be free later.
pub(crate) async fn listen(key: &str, address: &str) -> Result<TcpListener, Failure> {
    check(key, address)?;
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Failure::try_again(anyhow::anyhow!(
            "{key}: something already listens on {address}; stop it, or choose another port"
        )),
        _ => Failure::permanent(anyhow::anyhow!("{key}: cannot listen on {address}: {error}")),
    })
}

/// Whether `address` is a host and a port, before anything is said of either.
pub(crate) fn check(key: &str, address: &str) -> Result<(), Failure> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(()),
        _ => Err(Failure::usage(anyhow::anyhow!("{key}: {address:?} is not HOST:PORT; write it like 127.0.0.1:8700"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:8700", "[::1]:0", "localhost:65535", "0.0.0.0:80"] {
            assert!(check("listen", good).is_ok(), "{good}");
        }
        for bad in ["nowhere", "", ":8700", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http"] {
            let refused = check("listen", bad).unwrap_err();
            assert_eq!(refused.code, exit::USAGE, "{bad}");
            assert!(refused.to_string().contains("HOST:PORT"), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_taken_address_may_be_free_later() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let refused = listen("listen", &address).await.unwrap_err();
        assert_eq!(refused.code, exit::TRY_AGAIN);
        assert!(refused.to_string().contains("choose another port"), "{refused}");
    }
}
