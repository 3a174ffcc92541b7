//! Whose connection it is: the client's address behind trusted proxies, and how many connections it holds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::HeaderMap;
use mlms_process::config::Network;

/// Proxies in a row that are looked at; more is nobody's honest set-up.
const HOPS_MAX: usize = 16;

/// The client's address: the peer's own, or what trusted proxies say in `X-Forwarded-For`, read from the nearest
/// proxy outwards up to the first address that is not itself a trusted proxy. What stands behind that one is the
/// client's own claim and is never read.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_proxy = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    if !is_proxy(address) {
        return address;
    }
    let values: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
    for hop in values.iter().rev().flat_map(|value| value.rsplit(',')).take(HOPS_MAX) {
        let Some(hop) = parse_hop(hop.trim()) else { break };
        address = hop;
        if !is_proxy(address) {
            break;
        }
    }
    address
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    let address = address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    address.map(|address| address.to_canonical())
}

/// What counts as one address: an IPv4 address, or a /64 of IPv6, which is what one customer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey(u128);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // The lower half is never zero here and always zero below, so the two cannot meet.
            IpAddr::V4(address) => AddressKey(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => AddressKey(address.to_bits() >> 64 << 64),
        }
    }
}

/// Counts connections by address. Holds one entry for each address that has a connection now.
pub(crate) struct Places {
    max: usize,
    taken: Mutex<HashMap<AddressKey, usize>>,
}

/// One connection's place, given back when it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    key: AddressKey,
}

impl Places {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Places { max, taken: Mutex::new(HashMap::new()) })
    }

    /// Takes a place, unless the address has all it may have.
    pub(crate) fn take(self: &Arc<Self>, key: AddressKey) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&key).copied().unwrap_or(0);
        if self.max > 0 && count >= self.max {
            return None;
        }
        taken.insert(key, count + 1);
        Some(Place { places: self.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_are_believed_only_from_trusted_proxies() {
        let trusted: Vec<Network> = ["10.0.0.0/8", "fd00::/8"].iter().map(|n| n.parse().unwrap()).collect();
        let check = |peer: &str, forwarded: &[&str], expected: &str| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            let address = client_address(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(address, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        };
        check("203.0.113.1", &["198.51.100.7"], "203.0.113.1");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.2.0.1"], "198.51.100.7");
        check("10.0.0.1", &["6.6.6.6", "198.51.100.7", "10.2.0.1"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7");
        check("fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1");
        check("fd00::1", &["[2001:db8::1]"], "2001:db8::1");
        check("10.0.0.1", &["198.51.100.7, unknown"], "10.0.0.1");
        check("10.0.0.1", &["10.0.0.9, 10.0.0.8"], "10.0.0.9");
        check("10.0.0.1", &[&["10.1.1.1"; 400].join(",")], "10.1.1.1");
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let places = Places::new(2);
        let key = |text: &str| AddressKey::from(text.parse::<IpAddr>().unwrap());
        let first = places.take(key("192.0.2.1")).unwrap();
        let _second = places.take(key("::ffff:192.0.2.1")).unwrap();
        assert!(places.take(key("192.0.2.1")).is_none());
        assert!(places.take(key("192.0.2.2")).is_some());
        drop(first);
        assert!(places.take(key("192.0.2.1")).is_some());

        let _a = places.take(key("2001:db8::1")).unwrap();
        let _b = places.take(key("2001:db8::2")).unwrap();
        assert!(places.take(key("2001:db8::3")).is_none(), "one /64 is one address");
        assert!(places.take(key("2001:db8:0:1::1")).is_some());
        assert_eq!(places.taken.lock().unwrap().len(), 2, "addresses without a connection are forgotten");
    }
}
