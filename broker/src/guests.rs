//! Guests: who asks for a token without having one, and how often an address may.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Deserialize;

use crate::address::AddressKey;
use crate::refusal::Refusal;

/// Bytes of a guest's name.
const NAME_BYTES_MAX: usize = 64;
/// Name of a guest who gives none.
const NAME_DEFAULT: &str = "Guest";
/// Addresses remembered at once. When that many asked within a minute, further ones have to wait.
const ADDRESSES_MAX: usize = 50_000;

/// What a guest asks with.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GuestRequest {
    name: Option<String>,
}

impl GuestRequest {
    /// The name to put into the token.
    ///
    /// # Errors
    /// `BadName`.
    pub(crate) fn name(&self) -> Result<&str, Refusal> {
        let name = self.name.as_deref().unwrap_or(NAME_DEFAULT).trim();
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
        if fits { Ok(name) } else { Err(Refusal::BadName) }
    }
}

/// A token bucket for each address that asked within the last minute.
pub(crate) struct GuestRate {
    per_minute: u32,
    buckets: Mutex<HashMap<AddressKey, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl GuestRate {
    /// `per_minute` is also what an address may ask for at once; 0 turns the limit off.
    pub(crate) fn new(per_minute: u32) -> Self {
        GuestRate { per_minute, buckets: Mutex::new(HashMap::new()) }
    }

    /// Lets one through, or not.
    pub(crate) fn admit(&self, key: AddressKey, now: Instant) -> bool {
        if self.per_minute == 0 {
            return true;
        }
        let full = f64::from(self.per_minute);
        let refilled = |bucket: &Bucket| {
            (bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * full / 60.0).min(full)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(&key) && buckets.len() >= ADDRESSES_MAX {
            buckets.retain(|_, bucket| refilled(bucket) < full);
            if buckets.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: full, at: now });
        *bucket = Bucket { left: refilled(bucket), at: now };
        let admitted = bucket.left >= 1.0;
        if admitted {
            bucket.left -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_gets_its_burst_and_then_its_rate() {
        let rate = GuestRate::new(6);
        let key = |last| AddressKey::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
        let start = Instant::now();
        for _ in 0..6 {
            assert!(rate.admit(key(1), start));
        }
        assert!(!rate.admit(key(1), start));
        assert!(rate.admit(key(2), start), "another address has its own");
        assert!(!rate.admit(key(1), start + Duration::from_secs(9)));
        assert!(rate.admit(key(1), start + Duration::from_secs(15)));
        assert!(!rate.admit(key(1), start + Duration::from_secs(15)));
    }

    #[test]
    fn the_memory_of_addresses_is_bounded() {
        let rate = GuestRate::new(1);
        let key = |n: u32| AddressKey::from(IpAddr::from(Ipv4Addr::from_bits(n)));
        let start = Instant::now();
        let count = u32::try_from(ADDRESSES_MAX).unwrap();
        for n in 0..count {
            assert!(rate.admit(key(n), start));
        }
        assert!(!rate.admit(key(count), start), "no room for one more");
        assert!(rate.admit(key(count), start + Duration::from_secs(61)), "those who waited are forgotten");
        assert_eq!(rate.buckets.lock().unwrap().len(), 1);
    }

    #[test]
    fn names_are_bounded() {
        let name = |name: &str| GuestRequest { name: Some(name.to_owned()) }.name().map(str::to_owned);
        assert_eq!(name(" Ann "), Ok("Ann".to_owned()));
        assert_eq!(name("Ännchen 🦀"), Ok("Ännchen 🦀".to_owned()));
        assert_eq!(name("  "), Err(Refusal::BadName));
        assert_eq!(name("a\nb"), Err(Refusal::BadName));
        assert_eq!(name(&"x".repeat(65)), Err(Refusal::BadName));
        assert_eq!(GuestRequest::default().name(), Ok("Guest"));
    }
}
