//! Plain HTTP requests, for doors that take no more than that.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One request, with an answer of its own connection. `None`: nobody answers, or not within the limit.
pub async fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
    limit: Duration,
) -> Option<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    tokio::time::timeout(limit, asking).await.ok()?
}

/// A metric's value on a page of metrics, summed over its series that have this label value (all, when it is empty).
#[must_use]
pub fn metric(page: &str, name: &str, label: &str) -> f64 {
    let wanted = format!("=\"{label}\"");
    let series = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let series = series.filter(|(series, _)| series.split('{').next() == Some(name));
    let series = series.filter(|(series, _)| label.is_empty() || series.contains(&wanted));
    series.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}
