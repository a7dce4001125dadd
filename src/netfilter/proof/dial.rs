//! Probes: connections with a random token, and listeners that tell who got which.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::core::ruleset::Family;
use crate::netfilter::proof::{Direction, link};

/// Bytes of a token.
const TOKEN: usize = 16;

/// When a probe that did not arrive is dialled again.
const LATE: Duration = Duration::from_millis(100);

/// What a probe carries, so that nobody else's connection is taken for it.
pub(super) type Token = [u8; TOKEN];

/// A listener of the probes.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    /// Whose place it takes, for people.
    pub(super) label: String,
    bound: SocketAddr,
}

/// A token that arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) token: Token,
    pub(super) label: String,
    /// Where the listener listens: what TPROXY hands to it has another local end.
    pub(super) bound: SocketAddr,
    /// Where the dialler meant to go, if the connection was redirected.
    pub(super) original: Option<SocketAddr>,
    /// The connection's own end.
    pub(super) local: Option<SocketAddr>,
}

impl Listener {
    /// Listens on the address, even if it is not this namespace's, and also for what TPROXY hands over.
    ///
    /// # Errors
    /// `EADDRINUSE` where another listens already.
    pub(super) fn bind(address: SocketAddr, label: impl Into<String>) -> io::Result<Self> {
        Self::listen(address, label.into(), true)
    }

    /// Listens on the address, without any privilege.
    ///
    /// # Errors
    /// `EADDRINUSE` where another listens already.
    pub(super) fn bind_plainly(address: SocketAddr, label: impl Into<String>) -> io::Result<Self> {
        Self::listen(address, label.into(), false)
    }

    fn listen(address: SocketAddr, label: String, is_transparent: bool) -> io::Result<Self> {
        let family = Family::of(address.ip());
        let socket = stream_socket(family)?;
        socket.set_reuse_address(true)?;
        if is_transparent {
            transparent(&socket, family)?;
        }
        if family == Family::V6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(64)?;
        Ok(Self { socket, label, bound: address })
    }

    fn accept(&self) -> Option<Connection> {
        let (socket, _) = self.socket.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        let original = match Family::of(self.bound.ip()) {
            Family::V4 => socket.original_dst_v4(),
            Family::V6 => socket.original_dst_v6(),
        };
        Some(Connection {
            original: original.ok().and_then(|address| address.as_socket()),
            local: socket.local_addr().ok().and_then(|address| address.as_socket()),
            stream: socket.into(),
            label: self.label.clone(),
            bound: self.bound,
            received: Vec::with_capacity(TOKEN),
        })
    }
}

struct Connection {
    stream: TcpStream,
    label: String,
    bound: SocketAddr,
    original: Option<SocketAddr>,
    local: Option<SocketAddr>,
    received: Vec<u8>,
}

impl Connection {
    fn arrival(&mut self) -> Option<Arrival> {
        let mut bytes = [0; TOKEN];
        while let Ok(count @ 1..) = self.stream.read(&mut bytes[self.received.len()..]) {
            self.received.extend_from_slice(&bytes[self.received.len()..self.received.len() + count]);
            if let Ok(token) = Token::try_from(self.received.as_slice()) {
                let (label, original, local) = (self.label.clone(), self.original, self.local);
                return Some(Arrival { token, label, bound: self.bound, original, local });
            }
        }
        None
    }
}

/// A connection under way, dialled again until it arrives.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) token: Token,
    to: SocketAddr,
    direction: Direction,
    attempts: Vec<Attempt>,
    dialled: Instant,
}

#[derive(Debug)]
struct Attempt {
    socket: Socket,
    sent: bool,
    refused: bool,
}

impl Probe {
    /// Dials the canary, outbound, as any process of the pod would, or, inbound, as if from outside the pod.
    ///
    /// # Errors
    /// Those of connect(2), where not even the first packet goes.
    pub(super) fn dial(direction: Direction, family: Family, port: u16) -> io::Result<Self> {
        let mut token = [0; TOKEN];
        File::open("/dev/urandom")?.read_exact(&mut token)?;
        let address = match direction {
            Direction::Outbound => link::canary(family),
            Direction::Inbound => link::destination(family),
        };
        let to = SocketAddr::new(address, port);
        Ok(Self { token, to, direction, attempts: vec![Attempt::new(direction, to)?], dialled: Instant::now() })
    }

    /// Sends the token as soon as a connection is up.
    fn send(&mut self) {
        for attempt in self.attempts.iter_mut().filter(|attempt| !attempt.sent) {
            // Not connected yet, or refused: what arrives tells, not what is sent.
            let sent = attempt.socket.send(&self.token);
            // The error of a connection is told once.
            attempt.refused |= sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            attempt.sent = sent.is_ok_and(|count| count == TOKEN);
        }
    }

    /// Whether somebody has taken it, though nobody is where it was sent.
    pub(super) fn was_taken(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.sent)
    }

    /// Whether somebody has refused it, though nobody is where it was sent.
    pub(super) fn was_refused(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.refused)
    }

    /// A packet that a busy kernel has lost is sent again by TCP after a second (RFC 6298); a new connection is sooner.
    fn dial_again_if_late(&mut self) {
        if self.dialled.elapsed() >= LATE {
            self.dialled = Instant::now();
            self.attempts.extend(Attempt::new(self.direction, self.to));
        }
    }
}

impl Attempt {
    fn new(direction: Direction, to: SocketAddr) -> io::Result<Self> {
        let family = Family::of(to.ip());
        let socket = stream_socket(family)?;
        if direction == Direction::Inbound {
            transparent(&socket, family)?;
            socket.bind_device(Some(link::NEAR.as_bytes()))?;
            socket.bind(&SocketAddr::new(link::source(family), 0).into())?;
        }
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(Self { socket, sent: false, refused: false }),
        }
    }
}

/// Waits until every token of `wanted` arrived or time is up; returns what arrived.
pub(super) fn collect(
    listeners: &[Listener],
    probes: &mut [&mut Probe],
    wanted: &[Token],
    limit: Duration,
) -> Vec<Arrival> {
    let deadline = Instant::now() + limit;
    let mut connections: Vec<Connection> = Vec::new();
    let mut arrivals: Vec<Arrival> = Vec::new();
    loop {
        connections.extend(listeners.iter().flat_map(|listener| std::iter::from_fn(|| listener.accept())));
        for probe in &mut *probes {
            probe.send();
        }
        arrivals.extend(connections.iter_mut().filter_map(Connection::arrival));
        let missing = |token: &Token| wanted.contains(token) && !arrivals.iter().any(|arrival| arrival.token == *token);
        if !wanted.iter().any(missing) || Instant::now() >= deadline {
            return arrivals;
        }
        for probe in probes.iter_mut().filter(|probe| missing(&probe.token)) {
            probe.dial_again_if_late();
        }
        let mut waiting: Vec<PollFd<'_>> =
            listeners.iter().map(|listener| PollFd::new(listener.socket.as_fd(), PollFlags::POLLIN)).collect();
        waiting.extend(connections.iter().map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLIN)));
        // An error here only means to look again, and the deadline ends that.
        let _ = poll(&mut waiting, PollTimeout::from(2u8));
    }
}

fn stream_socket(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn transparent(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => socket.set_ip_transparent_v4(true),
        Family::V6 => socket.set_ip_transparent_v6(true),
    }
}
