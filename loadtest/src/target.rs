//! Where the load goes, and from which addresses of this machine it comes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

use anyhow::{Context as _, bail, ensure};

/// Connections from one loopback address: even twice as many, in a storm, stay below the service's default.
const PER_LOOPBACK_ADDRESS: u32 = 45;

/// A WebSocket endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it stands in `Host`.
    pub(crate) authority: String,
    pub(crate) address: SocketAddr,
    /// Of the WebSocket, without a query.
    pub(crate) path: String,
}

impl Target {
    /// Reads `ws://host:port[/path]` and looks the host up.
    pub(crate) fn resolve(url: &str) -> anyhow::Result<Target> {
        let rest = match url.split_once("://") {
            Some(("ws" | "http", rest)) => rest,
            Some(("wss" | "https", _)) => {
                bail!(
                    "{url}: TLS would measure the generator; connect behind it, or through a local TLS proxy"
                )
            }
            _ => bail!("{url}: write ws://host:port"),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        ensure!(!authority.is_empty() && !authority.contains('@'), "{url}: write ws://host:port");
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = if path.is_empty() || path == "/" { "/ws" } else { path };
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let lookup = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let mut found = lookup.to_socket_addrs().with_context(|| format!("{url}: the host is not known"))?;
        let address = found.next().with_context(|| format!("{url}: the host has no address"))?;
        Ok(Target { authority: authority.to_owned(), address, path: path.to_owned() })
    }
}

/// Source addresses, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    addresses: Vec<IpAddr>,
}

impl Sources {
    /// `given`: addresses, or `first-last` ranges; none: for a loopback target as many addresses of 127.0.0.0/8 as the
    /// service's limit for one address and the range of ports ask for, else the system's choice.
    pub(crate) fn new(given: &[String], target: &Target, clients: u32) -> anyhow::Result<Sources> {
        let mut addresses = Vec::new();
        for text in given {
            match text.split_once('-') {
                Some((first, last)) => addresses.extend(range(first, last).with_context(|| text.clone())?),
                None => addresses.push(text.parse().with_context(|| format!("{text} is no address"))?),
            }
        }
        if addresses.is_empty() && target.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let first = u32::from(Ipv4Addr::LOCALHOST);
            let count = clients.div_ceil(PER_LOOPBACK_ADDRESS).min(60_000);
            addresses.extend((0..count).map(|index| IpAddr::V4(Ipv4Addr::from(first + index))));
        }
        Ok(Sources { addresses })
    }

    /// The address of a client; `None`: the system chooses.
    pub(crate) fn of(&self, client: u32) -> Option<IpAddr> {
        self.addresses.get(client as usize % self.addresses.len().max(1)).copied()
    }
}

fn range(first: &str, last: &str) -> anyhow::Result<Vec<IpAddr>> {
    let (first, last): (Ipv4Addr, Ipv4Addr) = (first.trim().parse()?, last.trim().parse()?);
    let (first, last) = (u32::from(first), u32::from(last));
    ensure!(first <= last && last - first < 65_536, "a range is ascending and has at most 65536 addresses");
    Ok((first..=last).map(|address| IpAddr::V4(Ipv4Addr::from(address))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_leave_out_the_path() {
        let target = Target::resolve("ws://127.0.0.1:8080").unwrap();
        assert_eq!((&*target.path, &*target.authority), ("/ws", "127.0.0.1:8080"));
        assert_eq!(Target::resolve("ws://127.0.0.1:8080/a/ws?x=1").unwrap().path, "/a/ws");
        assert_eq!(Target::resolve("ws://[::1]:81/").unwrap().address, "[::1]:81".parse().unwrap());
        for bad in ["127.0.0.1:8080", "ws://", "wss://127.0.0.1:1", "ws://127.0.0.1:x", "ftp://a"] {
            assert!(Target::resolve(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_has_as_many_sources_as_it_takes() {
        let target = Target::resolve("ws://127.0.0.1:8080").unwrap();
        let sources = Sources::new(&[], &target, 1_000).unwrap();
        assert_eq!(sources.addresses.len(), 23);
        assert_ne!(sources.of(0), sources.of(1));
        let given = ["10.0.0.1".to_owned(), "10.0.1.250-10.0.2.5".to_owned()];
        assert_eq!(Sources::new(&given, &target, 1).unwrap().addresses.len(), 13);
        assert!(Sources::new(&["10.0.0.2-10.0.0.1".to_owned()], &target, 1).is_err());
    }
}
