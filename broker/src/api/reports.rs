//! Messages that members reported, for those who moderate the service.

use mlms_protocol::Millis;
use mlms_store::FiledReport;
use serde::Serialize;

use super::call::hex;
use super::{Call, Fault, Reply};
use crate::players::{away, store};

/// Reports on a page, and without a `limit`.
const PAGE_MAX: u32 = 100;

/// `GET /v1/reports`: each message as it was when it was reported, with what was said around it; the newest first.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Page {
        reports: Vec<FiledReport>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let limit = call.limit(PAGE_MAX, PAGE_MAX)?;
    let position = call.query("cursor").map(read_position).transpose()?;
    let before = position.as_ref().map(|(at, id)| (*at, id.as_str()));
    let mut reports = store(call)?.reports(before, limit + 1).await.map_err(away)?;
    let more = reports.len() > limit as usize;
    reports.truncate(limit as usize);
    let next = reports.last().filter(|_| more).map(|last| position_of(last.at, &last.id));
    Ok(Reply::ok(&Page { reports, next }))
}

fn position_of(at: Millis, id: &str) -> String {
    format!("{}.{}", at.0, hex(id.as_bytes()))
}

fn read_position(text: &str) -> Result<(Millis, String), Fault> {
    let read = || {
        let (at, id) = text.split_once('.')?;
        let digits = id.len() % 2 == 0 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let byte = |at: usize| u8::from_str_radix(&id[at..at + 2], 16).ok();
        let bytes = digits.then(|| (0..id.len()).step_by(2).map(byte).collect::<Option<Vec<_>>>())??;
        Some((Millis(at.parse().ok()?), String::from_utf8(bytes).ok()?))
    };
    read().ok_or_else(|| Fault::bad("`cursor` is not one of this list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let id = "den/7/Änne \u{1f980}";
        assert_eq!(read_position(&position_of(Millis(5), id)).unwrap(), (Millis(5), id.to_owned()));
        for strange in ["", "5", "5.x", "5.abc", "x.ab", "5.ff", "5.+1", "5.äb"] {
            assert!(read_position(strange).is_err(), "{strange}");
        }
    }
}
