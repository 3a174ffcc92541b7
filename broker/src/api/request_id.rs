//! The number of a request: the caller's own where it is a sane one, so that its log and ours can be laid side by
//! side, else a new one. It goes back with every answer and stands in the log.

use hyper::header::{HeaderMap, HeaderValue};

/// The header, in both directions.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Longest number that is taken over.
const LENGTH_MAX: usize = 64;

pub(crate) fn of(headers: &HeaderMap) -> HeaderValue {
    let is_sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=LENGTH_MAX).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
    };
    headers.get(REQUEST_ID).filter(is_sane).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::now_v7().simple().to_string();
        HeaderValue::from_str(&id).expect("hexadecimal digits are a header's value")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_number_is_kept_and_any_other_replaced() {
        let of = |value: &'static str| {
            of(&HeaderMap::from_iter([(REQUEST_ID.parse().unwrap(), HeaderValue::from_static(value))]))
        };
        assert_eq!(of("back-end:42"), "back-end:42");
        let long: &'static str = Box::leak("x".repeat(65).into_boxed_str());
        for strange in ["", "a b", "a\"b", "<script>", long] {
            assert_eq!(of(strange).len(), 32, "{strange}");
        }
        assert_ne!(of(""), of(""));
    }
}
