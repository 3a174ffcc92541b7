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
    /// A process id, or a file that holds one, so that a server that is started anew is found again.
    Process(String),
    /// `http://host:port/path`.
    Metrics(String),
}

/// One look at all servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: f64,
}

/// The servers, looked at again and again.
pub(crate) struct Servers(Vec<Server>);

struct Server {
    probe: Probe,
    /// Processor time of its earlier processes: one that is started anew counts from zero.
    before: f64,
    last: Usage,
}

impl Servers {
    pub(crate) fn new(probes: Vec<Probe>) -> Servers {
        let server = |probe| Server { probe, before: 0.0, last: Usage::default() };
        Servers(probes.into_iter().map(server).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sums all servers' usage. One that does not answer has its last processor time and no memory. May take seconds.
    pub(crate) fn look(&mut self) -> Usage {
        self.0.iter_mut().fold(Usage::default(), |sum, server| {
            server.take(look_at(&server.probe).ok());
            Usage {
                cpu_seconds: sum.cpu_seconds + server.before + server.last.cpu_seconds,
                rss_bytes: sum.rss_bytes + server.last.rss_bytes,
            }
        })
    }
}

impl Server {
    fn take(&mut self, found: Option<Usage>) {
        match found {
            Some(usage) => {
                if usage.cpu_seconds < self.last.cpu_seconds {
                    self.before += self.last.cpu_seconds;
                }
                self.last = usage;
            }
            None => self.last.rss_bytes = 0.0,
        }
    }
}

/// # Errors
/// The server cannot be looked at.
pub(crate) fn look_at(probe: &Probe) -> anyhow::Result<Usage> {
    match probe {
        Probe::Process(pid) => process(pid).with_context(|| format!("process {pid}")),
        Probe::Metrics(url) => page(url).with_context(|| url.clone()),
    }
}

fn process(pid: &str) -> anyhow::Result<Usage> {
    let pid: i32 = match pid.parse() {
        Ok(pid) => pid,
        Err(_) => std::fs::read_to_string(pid)?.trim().parse().context("the file holds no process id")?,
    };
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
        let usage = look_at(&Probe::Process(std::process::id().to_string())).unwrap();
        assert!(usage.rss_bytes > 1e6 && usage.cpu_seconds >= 0.0, "{usage:?}");
        assert!(look_at(&Probe::Process("-5".to_owned())).is_err());
    }

    #[test]
    fn a_server_that_is_silent_or_started_anew_costs_no_more_than_it_used() {
        let mut server =
            Server { probe: Probe::Process("1".to_owned()), before: 0.0, last: Usage::default() };
        let mut total = |cpu: Option<f64>| {
            server.take(cpu.map(|cpu_seconds| Usage { cpu_seconds, rss_bytes: 1.0 }));
            server.before + server.last.cpu_seconds
        };
        let totals = [Some(5.0), None, Some(7.0), None, Some(1.0), Some(2.0)].map(&mut total);
        assert_eq!(totals, [5.0, 5.0, 7.0, 7.0, 8.0, 9.0]);
    }

    #[test]
    fn a_page_is_read() {
        let text = "# HELP x\nprocess_cpu_seconds_total 12.5\nprocess_resident_memory_bytes{a=\"b\"} 4096\n";
        assert_eq!(usage_of(text), Some(Usage { cpu_seconds: 12.5, rss_bytes: 4096.0 }));
    }
}
