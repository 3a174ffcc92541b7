//! What the servers under test use of their machine: processor time and resident memory, read from /proc by process id
//! or from a Prometheus page.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Where a server's numbers come from.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    Process(i32),
    /// `http://host:port/path`.
    Metrics(String),
}

/// One look at all servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: f64,
}

/// Sums the servers' usage. A server that is gone counts nothing.
pub(crate) fn look(probes: &[Probe]) -> Option<Usage> {
    let found: Vec<Usage> = probes.iter().filter_map(|probe| look_at(probe).ok()).collect();
    (!found.is_empty()).then(|| Usage {
        cpu_seconds: found.iter().map(|usage| usage.cpu_seconds).sum(),
        rss_bytes: found.iter().map(|usage| usage.rss_bytes).sum(),
    })
}

/// # Errors
/// The server cannot be looked at.
pub(crate) fn look_at(probe: &Probe) -> anyhow::Result<Usage> {
    match probe {
        Probe::Process(pid) => process(*pid).with_context(|| format!("process {pid}")),
        Probe::Metrics(url) => page(url).with_context(|| url.clone()),
    }
}

fn process(pid: i32) -> anyhow::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold anything; the fields behind it are numbers. See proc(5).
    let fields: Vec<&str> = stat.rsplit_once(") ").context("no stat")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).context("no stat");
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: f64 = statm.split(' ').nth(1).context("no statm")?.parse()?;
    let clock = rustix::param::clock_ticks_per_second() as f64;
    let cpu_seconds = (ticks(11)? + ticks(12)?) / clock;
    Ok(Usage { cpu_seconds, rss_bytes: pages * rustix::param::page_size() as f64 })
}

fn page(url: &str) -> anyhow::Result<Usage> {
    let rest = url.strip_prefix("http://").context("write http://host:port/metrics")?;
    let (authority, path) = rest.find('/').map_or((rest, "/metrics"), |at| rest.split_at(at));
    let address = authority.to_socket_addrs()?.next().context("no address")?;
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n")?;
    let mut text = String::new();
    stream.take(16 << 20).read_to_string(&mut text)?;
    usage_of(&text).context("it has no process_cpu_seconds_total and process_resident_memory_bytes")
}

fn usage_of(text: &str) -> Option<Usage> {
    let value = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    Some(Usage {
        cpu_seconds: value("process_cpu_seconds_total")?,
        rss_bytes: value("process_resident_memory_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() {
        let usage = look_at(&Probe::Process(std::process::id() as i32)).unwrap();
        assert!(usage.rss_bytes > 1e6 && usage.cpu_seconds >= 0.0, "{usage:?}");
        assert_eq!(look(&[Probe::Process(-5)]), None);
    }

    #[test]
    fn a_page_is_read() {
        let text = "# HELP x\nprocess_cpu_seconds_total 12.5\nprocess_resident_memory_bytes{a=\"b\"} 4096\n";
        assert_eq!(usage_of(text), Some(Usage { cpu_seconds: 12.5, rss_bytes: 4096.0 }));
    }
}
