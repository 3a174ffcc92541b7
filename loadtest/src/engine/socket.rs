//! One connection without a runtime: opened from a chosen address, with TLS where the target wants it, written as far
//! as it takes, the rest kept.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket as Raw, Type};

use crate::target::Target;

/// The receive buffer of a slow reader, so that it is soon behind.
const SLOW_BUFFER_BYTES: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The part of a frame that has come.
    pub(crate) inbox: Vec<u8>,
    /// The parts of a fragmented message.
    pub(crate) fragments: Vec<u8>,
    outbox: Vec<u8>,
    pub(crate) is_connected: bool,
}

/// What one reading gave.
pub(crate) enum Got {
    Bytes(usize),
    /// Nothing for now.
    Dry,
    End,
}

impl Socket {
    /// Begins to connect.
    pub(crate) fn open(
        target: &Target,
        tls: &Arc<ClientConfig>,
        source: Option<IpAddr>,
        is_slow: bool,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Socket> {
        let address = target.address;
        let tls = match &target.name {
            Some(name) => {
                let mut tls =
                    ClientConnection::new(Arc::clone(tls), name.clone()).map_err(io::Error::other)?;
                // What is written during the handshake is our own; what the network does not take waits here.
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
            None => None,
        };
        let raw = Raw::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        raw.set_nonblocking(true)?;
        raw.set_tcp_nodelay(true)?;
        if is_slow {
            raw.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
        }
        if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
            raw.bind(&SocketAddr::new(source, 0).into())?;
        }
        match raw.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let mut stream = TcpStream::from_std(raw.into());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (inbox, fragments, outbox) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Socket { stream, tls, inbox, fragments, outbox, is_connected: false })
    }

    /// Looks whether the connection came about; false: it is still under way.
    pub(crate) fn finish_connecting(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.is_connected = true;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A reading that fills less than it may can have left something behind: TLS comes in records.
    pub(crate) fn has_records(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<Got> {
        if self.tls.is_some() {
            return self.read_records(into);
        }
        loop {
            return match self.stream.read(into) {
                Ok(0) => Ok(Got::End),
                Ok(count) => Ok(Got::Bytes(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Dry),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    fn read_records(&mut self, into: &mut [u8]) -> io::Result<Got> {
        loop {
            let Some(tls) = &mut self.tls else { return Ok(Got::Dry) };
            match tls.reader().read(into) {
                Ok(0) => return Ok(Got::End),
                Ok(count) => return Ok(Got::Bytes(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end without a goodbye of TLS's own is an end all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Got::End),
                Err(error) => return Err(error),
            }
            match tls.read_tls(&mut self.stream) {
                Ok(0) if tls.is_handshaking() => return Ok(Got::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Got::Dry),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let outcome = tls.process_new_packets();
            // Its part of the handshake, or why there will be none.
            self.encrypted()?;
            outcome.map_err(io::Error::other)?;
        }
    }

    /// Sends what TLS has to say.
    fn encrypted(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            tls.write_tls(&mut self.outbox)?;
        }
        self.flush()
    }

    /// Writes, behind what waits already.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes)?;
            return self.encrypted();
        }
        if self.is_connected && self.outbox.is_empty() {
            let written = self.write_some(bytes)?;
            self.outbox.extend_from_slice(&bytes[written..]);
        } else {
            self.outbox.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.outbox.is_empty() || !self.is_connected {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.outbox);
        let written = self.write_some(&waiting)?;
        if written < waiting.len() {
            self.outbox = waiting;
            self.outbox.drain(..written);
        }
        Ok(())
    }

    /// Bytes that the network has not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.outbox.len()
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.write(&bytes[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}
