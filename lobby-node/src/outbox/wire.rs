//! Where a connection's bytes go and come from: its socket, a broker's trunk, or a pipe in tests. Writes what fits now; the outbox keeps
//! the rest.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use mlms_process::trunk::Stream;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Where the bytes go.
pub(crate) enum Wire {
    Tcp(Line),
    Trunk(Stream),
    /// An in-memory pipe, for tests under a paused clock.
    Pipe(Mutex<DuplexStream>),
}

/// A TCP connection. It is part of the outbox, and bytes go to the socket past the runtime's books: a fan-out writes to
/// one connection after the other, and whatever it has to follow a pointer to has left the caches since the last time.
/// The runtime is asked when the socket takes or gives nothing.
pub(crate) struct Line(TcpStream);

impl Line {
    /// Belongs to the runtime that it is made in.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Line> {
        TcpStream::from_std(stream.into_std()?).map(Line)
    }

    /// Past the books: they say "ready" until a wait for the socket has found that it is not.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            let mut read = None;
            let outcome = self.0.try_io(Interest::READABLE, || {
                let bytes = rustix::net::recv(&self.0, &mut *space, RecvFlags::empty())?.0;
                read = Some(bytes);
                // What was not filled was all there is: the books say so without another look.
                if bytes > 0 && bytes < space.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (read, outcome) {
                (Some(bytes), _) => {
                    buf.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                (None, outcome) => return Poll::Ready(outcome),
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // What waits unread would make the kernel end the connection with a reset alone. A peer that is gone needs no end.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }
}

impl Wire {
    /// Writes what fits now.
    pub(super) fn try_write(&self, bytes: &Bytes) -> io::Result<usize> {
        match self {
            Wire::Tcp(line) => line.write(bytes),
            Wire::Trunk(stream) => stream.write(bytes),
            Wire::Pipe(pipe) => match poll_pipe(pipe, bytes, &mut Context::from_waker(Waker::noop())) {
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
            Wire::Tcp(line) => loop {
                line.0.writable().await?;
                if let Poll::Ready(outcome) = write(&mut Context::from_waker(Waker::noop())) {
                    return Ok(outcome);
                }
            },
            Wire::Trunk(_) | Wire::Pipe(_) => Ok(std::future::poll_fn(write).await),
        }
    }

    /// Writes what fits now; where nothing does, a trunk or a pipe wakes the context's task when it is worth another try.
    pub(super) fn poll_write(&self, bytes: &Bytes, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Wire::Tcp(line) => match line.0.try_io(Interest::WRITABLE, || line.write(bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                outcome => Poll::Ready(outcome),
            },
            Wire::Trunk(stream) => stream.poll_write(cx, bytes),
            Wire::Pipe(pipe) => poll_pipe(pipe, bytes, cx),
        }
    }

    /// Reads what has come. Only the connection's task may.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Tcp(line) => line.poll_read(cx, buf),
            Wire::Trunk(stream) => stream.poll_read(cx, buf).map(Ok),
            Wire::Pipe(pipe) => Pin::new(&mut *lock(pipe)).poll_read(cx, buf),
        }
    }
}

fn lock(pipe: &Mutex<DuplexStream>) -> MutexGuard<'_, DuplexStream> {
    pipe.lock().expect("no holder of a pipe panics")
}

fn poll_pipe(pipe: &Mutex<DuplexStream>, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    Pin::new(&mut *lock(pipe)).poll_write(cx, bytes)
}
