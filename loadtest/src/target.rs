//! Where the load goes, and from which addresses of this machine it comes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Connections from one loopback address: even twice as many, in a storm, stay below the service's default.
const PER_LOOPBACK_ADDRESS: u32 = 45;

/// A WebSocket endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it stands in `Host`.
    pub(crate) authority: String,
    pub(crate) address: SocketAddr,
    /// The host's others.
    addresses: Vec<SocketAddr>,
    /// Who must show a certificate; `None`: no TLS.
    pub(crate) name: Option<ServerName<'static>>,
    /// Of the WebSocket, without a query.
    pub(crate) path: String,
}

/// What is read and written, with TLS or without.
pub(crate) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

impl Target {
    /// Reads `ws://host[:port][/path]` or `wss://…` and looks the host up.
    pub(crate) fn resolve(url: &str) -> anyhow::Result<Target> {
        let (port, rest) = match url.split_once("://") {
            Some(("ws" | "http", rest)) => (80, rest),
            Some(("wss" | "https", rest)) => (443, rest),
            _ => bail!("{url}: write ws://host:port or wss://host:port"),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        ensure!(!authority.is_empty() && !authority.contains('@'), "{url}: write ws://host:port");
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = if path.is_empty() || path == "/" { "/ws" } else { path };
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let lookup = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
        let found = lookup.to_socket_addrs().with_context(|| format!("{url}: the host is not known"))?;
        let addresses: Vec<SocketAddr> = found.collect();
        // Of loopback's addresses only 127.0.0.1 has neighbours to connect from.
        let best = addresses.iter().find(|address| address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST));
        let address =
            *best.or(addresses.first()).with_context(|| format!("{url}: the host has no address"))?;
        let host = lookup.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        let name = match port {
            443 => Some(
                ServerName::try_from(host.to_owned()).with_context(|| format!("{url}: no host's name"))?,
            ),
            _ => None,
        };
        Ok(Target { authority: authority.to_owned(), address, addresses, name, path: path.to_owned() })
    }

    /// Finds an address of the host that answers.
    ///
    /// # Errors
    /// None does.
    pub(crate) fn reach(&mut self, patience: Duration) -> anyhow::Result<()> {
        let first = TcpStream::connect_timeout(&self.address, patience);
        let Err(error) = first else { return Ok(()) };
        let others = self.addresses.iter().filter(|address| **address != self.address);
        let reached = others
            .copied()
            .find(|address| TcpStream::connect_timeout(address, patience).is_ok())
            .ok_or(error)
            .with_context(|| format!("{} cannot be reached", self.authority));
        self.address = reached?;
        Ok(())
    }

    /// A connection for requests before the run.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn stream(
        &self,
        tls: &Arc<ClientConfig>,
        patience: Duration,
    ) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect_timeout(&self.address, patience)
            .with_context(|| format!("{} cannot be reached", self.authority))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let Some(name) = &self.name else { return Ok(Box::new(stream)) };
        let connection = ClientConnection::new(Arc::clone(tls), name.clone()).context("TLS")?;
        Ok(Box::new(StreamOwned::new(connection, stream)))
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
        ensure!(
            addresses.iter().all(|source: &IpAddr| source.is_ipv4() == target.address.is_ipv4()),
            "{} cannot be reached from all of the source addresses: both are IPv4, or both IPv6",
            target.address
        );
        if addresses.is_empty() && target.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let first = u32::from(Ipv4Addr::LOCALHOST);
            let count = clients.div_ceil(PER_LOOPBACK_ADDRESS).min(60_000);
            addresses.extend((0..count).map(|index| IpAddr::V4(Ipv4Addr::from(first + index))));
        }
        Ok(Sources { addresses })
    }

    /// Sees that there are ports for so many connections to so many addresses.
    ///
    /// # Errors
    /// There are not.
    pub(crate) fn suffice(&self, clients: u32, targets: usize, ports: u32) -> anyhow::Result<()> {
        // The system may use a port again for another target, but not one that was bound to an address.
        let roads = if self.addresses.is_empty() { targets } else { self.addresses.len() };
        ensure!(
            u64::from(clients) <= u64::from(ports) * roads as u64,
            "{clients} clients take more than the {ports} ports that one address of this machine has \
             (net.ipv4.ip_local_port_range): name more of them, --source FIRST-LAST"
        );
        Ok(())
    }

    /// Sees that they are this machine's; a run on workers knows nothing of theirs.
    ///
    /// # Errors
    /// One of them is not.
    pub(crate) fn are_here(&self) -> anyhow::Result<()> {
        self.addresses.iter().try_for_each(|address| {
            let bound = std::net::UdpSocket::bind((*address, 0)).map(drop);
            bound.with_context(|| format!("--source: this machine cannot use the address {address}"))
        })
    }

    /// The address of a client; `None`: the system chooses.
    pub(crate) fn of(&self, client: u32) -> Option<IpAddr> {
        self.addresses.get(client as usize % self.addresses.len().max(1)).copied()
    }
}

/// How many ports the system gives to connections from one address.
pub(crate) fn local_ports() -> u32 {
    let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = told.split_whitespace().filter_map(|number| number.parse::<u32>().ok());
    // Where nothing is told it is Linux's own default.
    let (first, last) = numbers.next().zip(numbers.next()).unwrap_or((32_768, 60_999));
    last.saturating_sub(first) + 1
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
        for bad in ["127.0.0.1:8080", "ws://", "ws://127.0.0.1:x", "ftp://a"] {
            assert!(Target::resolve(bad).is_err(), "{bad}");
        }
        let target = Target::resolve("wss://localhost").unwrap();
        assert_eq!(target.address, "127.0.0.1:443".parse().unwrap());
        assert_eq!(target.name, Some("localhost".try_into().unwrap()));
        assert!(Target::resolve("ws://localhost:1").unwrap().name.is_none());
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

    #[test]
    fn ports_that_do_not_suffice_are_told() {
        let sources =
            |count: u8| Sources { addresses: (0..count).map(|last| [10, 0, 0, last].into()).collect() };
        assert!(local_ports() > 1_000);
        assert!(sources(0).suffice(28_000, 1, 28_000).is_ok());
        assert!(sources(0).suffice(56_000, 2, 28_000).is_ok(), "a port serves once for each target");
        assert!(sources(3).suffice(84_000, 1, 28_000).is_ok());
        let error = sources(1).suffice(28_001, 2, 28_000).unwrap_err().to_string();
        assert!(error.contains("--source"), "{error}");
        assert!(Sources { addresses: vec![[127, 0, 0, 9].into()] }.are_here().is_ok());
        // Reserved: nobody has it.
        assert!(Sources { addresses: vec![[240, 0, 0, 1].into()] }.are_here().is_err());
    }
}
