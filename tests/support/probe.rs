//! Listeners that say who they are, and calls that report who answered.
//!
//! A listener's greeting is its name and the destination that the caller had dialled; after that it echoes.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::pod::Pod;

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

/// A call's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Somebody greeted.
    From {
        /// The listener's name.
        who: String,
        /// The destination that it says the caller had dialled.
        original: SocketAddr,
    },
    /// A TCP reset, or an ICMP port unreachable.
    Refused,
    /// Nothing came back.
    Silence,
    /// Something else.
    Error(String),
}

impl Answer {
    /// This listener answered, and knew where the caller had wanted to go.
    pub(crate) fn from(who: &str, original: SocketAddr) -> Self {
        Self::From { who: who.to_owned(), original }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From { who, original } => write!(f, "{who} (for {original})"),
            Self::Refused => f.write_str("refused"),
            Self::Silence => f.write_str("silence"),
            Self::Error(error) => f.write_str(error),
        }
    }
}

/// Who calls or listens, as packet filters see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User and group id of the socket.
    pub(crate) uid: u32,
    /// Mark of the socket's packets.
    pub(crate) mark: Option<u32>,
    /// Source address, the caller's own or, as a transparent proxy's, somebody else's; port 0 is any.
    pub(crate) source: Option<SocketAddr>,
}

impl Identity {
    /// A user id, no mark.
    pub(crate) const fn uid(uid: u32) -> Self {
        Self { uid, mark: None, source: None }
    }

    /// Netfilter compares a socket's owner with the file system uid of the thread that made it, and that, unlike the
    /// other user ids, is a thread's own in every libc (setfsuid(2); net/netfilter/nft_meta.c, `f_cred->fsuid`).
    fn assume(self) {
        setfsgid(Gid::from_raw(self.uid));
        setfsuid(Uid::from_raw(self.uid));
    }

    fn socket(self, to: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(source) = self.source {
            if source.is_ipv6() {
                socket.set_ip_transparent_v6(true)?
            } else {
                socket.set_ip_transparent_v4(true)?
            }
            socket.bind(&source.into())?;
        }
        Ok(socket)
    }
}

/// Who gets a UDP datagram: its answer.
pub(crate) fn ask(pod: &Pod, who: Identity, to: SocketAddr) -> Answer {
    pod.run(move || {
        who.assume();
        let exchange = || {
            let socket = who.socket(to, Type::DGRAM, Protocol::UDP)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(&to.into())?;
            socket.send(b"who?")?;
            let mut answer = [0; 128];
            let length = (&socket).read(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        judge(exchange())
    })
}

/// Who answers a call, and then talks: a greeting alone would not show that both directions hold.
pub(crate) fn call(pod: &Pod, who: Identity, to: SocketAddr) -> Answer {
    match Call::open(pod, who, to) {
        Ok(mut call) => match call.still_echoes() {
            Ok(()) => call.answer,
            Err(error) => Answer::Error(format!("{}, then nothing: {error}", call.answer)),
        },
        Err(answer) => answer,
    }
}

/// A call that goes on.
#[derive(Debug)]
pub(crate) struct Call {
    stream: BufReader<TcpStream>,
    /// Who answered.
    pub(crate) answer: Answer,
}

impl Call {
    /// Calls, and keeps the connection.
    pub(crate) fn open(pod: &Pod, who: Identity, to: SocketAddr) -> Result<Self, Answer> {
        pod.run(move || {
            who.assume();
            let connect = || {
                let socket = who.socket(to, Type::STREAM, Protocol::TCP)?;
                socket.connect_timeout(&to.into(), PATIENCE)?;
                let stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut stream = BufReader::new(stream);
                let mut greeting = String::new();
                stream.read_line(&mut greeting)?;
                Ok((stream, greeting))
            };
            let (stream, greeting) = connect().map_err(|error| judge(Err(error)))?;
            Ok(Self { stream, answer: judge(Ok(greeting)) })
        })
    }

    /// Whether a line comes back.
    pub(crate) fn still_echoes(&mut self) -> io::Result<()> {
        let line = b"still there?\n";
        self.stream.get_mut().write_all(line)?;
        let mut back = vec![0; line.len()];
        self.stream.read_exact(&mut back)?;
        if back == line { Ok(()) } else { Err(io::Error::other(format!("{back:?} came back"))) }
    }
}

fn judge(exchange: io::Result<String>) -> Answer {
    match exchange {
        Ok(greeting) => match greeting.trim().split_once(' ').map(|(who, original)| (who, original.parse())) {
            Some((who, Ok(original))) => Answer::From { who: who.to_owned(), original },
            _ => Answer::Error(format!("the greeting {greeting:?}")),
        },
        // A datagram that is rejected on output fails to be sent, before the ICMP error comes back.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied) => {
            Answer::Refused
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Answer::Silence,
        Err(error) => Answer::Error(error.to_string()),
    }
}

/// A listener in a pod, until it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// TCP. `IP_TRANSPARENT` is set, so that TPROXY rules can give it connections to any address.
    pub(crate) fn tcp(pod: &Pod, name: &str, who: Identity, at: SocketAddr) -> Self {
        let bind = move || {
            let socket = who.socket(at, Type::STREAM, Protocol::TCP)?;
            socket.set_reuse_address(true)?;
            if at.is_ipv6() {
                socket.set_only_v6(true)?;
                socket.set_ip_transparent_v6(true)?;
            } else {
                socket.set_ip_transparent_v4(true)?;
            }
            socket.bind(&at.into())?;
            socket.listen(64)?;
            Ok(socket)
        };
        Self::start(pod, name, who, at, bind, accept)
    }

    /// UDP.
    pub(crate) fn udp(pod: &Pod, name: &str, who: Identity, at: SocketAddr) -> Self {
        let bind = move || {
            let socket = who.socket(at, Type::DGRAM, Protocol::UDP)?;
            if at.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&at.into())?;
            Ok(socket)
        };
        Self::start(pod, name, who, at, bind, answer_datagrams)
    }

    fn start(
        pod: &Pod,
        name: &str,
        who: Identity,
        at: SocketAddr,
        bind: impl FnOnce() -> io::Result<Socket> + Send + 'static,
        serve: fn(&Socket, &str),
    ) -> Self {
        // An accepted socket belongs to the thread that accepts it, as replies are judged by it too.
        let name = name.to_owned();
        let label = name.clone();
        let started = pod.run(move || {
            // Binding may need CAP_NET_ADMIN and ports below 1024; only the owner changes.
            who.assume();
            let socket = bind()?;
            let served = socket.try_clone()?;
            let thread = thread::Builder::new().name(label.clone()).spawn(move || serve(&served, &label))?;
            Ok::<_, io::Error>((socket, thread))
        });
        let (socket, thread) = started.unwrap_or_else(|error| panic!("{name} cannot listen at {at}: {error}"));
        Self { socket, thread: Some(thread) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Wakes the blocked thread; a UDP socket is not connected and says so, and is woken all the same.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &Socket, name: &str) {
    while let Ok((socket, _)) = listener.accept() {
        let name = name.to_owned();
        thread::spawn(move || greet_and_echo(socket.into(), &name));
    }
}

fn greet_and_echo(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(&stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // Without connection tracking in the namespace the kernel knows no other destination than the local address.
    let original = original.ok().and_then(|address| address.as_socket()).unwrap_or(local);
    writeln!(stream, "{name} {original}")?;
    let mut from = stream.try_clone()?;
    io::copy(&mut from, &mut stream)?;
    stream.shutdown(Shutdown::Both)
}

fn answer_datagrams(socket: &Socket, name: &str) {
    let Ok(Some(local)) = socket.local_addr().map(|address| address.as_socket()) else { return };
    let Ok(socket) = socket.try_clone().map(std::net::UdpSocket::from) else { return };
    let mut buffer = [0; 128];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if length == 0 {
            return;
        }
        if socket.send_to(format!("{name} {local}").as_bytes(), from).is_err() {
            return;
        }
    }
}
