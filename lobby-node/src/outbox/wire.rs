//! Where a connection's bytes go: its socket, or a pipe in tests. Writes what fits now; the outbox keeps the rest.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncWrite, DuplexStream, WriteHalf};
use tokio::net::tcp::OwnedWriteHalf;

/// Where the bytes go.
pub(crate) enum Wire {
    Tcp(OwnedWriteHalf),
    /// An in-memory pipe, for tests under a paused clock.
    Pipe(Mutex<WriteHalf<DuplexStream>>),
}

impl Wire {
    /// Writes what fits now.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(half) => half.try_write(bytes),
            Wire::Pipe(half) => match poll_pipe(half, bytes, &mut Context::from_waker(Waker::noop())) {
                Poll::Ready(written) => written,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    /// Waits until the wire may take something, and lets `write` try. What is to be written may change until then.
    pub(super) async fn when_writable<T>(
        &self,
        mut write: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> io::Result<T> {
        match self {
            Wire::Tcp(half) => loop {
                half.writable().await?;
                if let Poll::Ready(outcome) = write(&mut Context::from_waker(Waker::noop())) {
                    return Ok(outcome);
                }
            },
            Wire::Pipe(_) => Ok(std::future::poll_fn(write).await),
        }
    }

    /// Writes what fits now; where nothing does, a pipe wakes the context's task when it is worth another try.
    pub(super) fn poll_write(&self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Wire::Tcp(half) => match half.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                outcome => Poll::Ready(outcome),
            },
            Wire::Pipe(half) => poll_pipe(half, bytes, cx),
        }
    }
}

fn poll_pipe(
    half: &Mutex<WriteHalf<DuplexStream>>,
    bytes: &[u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut half = half.lock().expect("no holder of a pipe panics");
    Pin::new(&mut *half).poll_write(cx, bytes)
}
