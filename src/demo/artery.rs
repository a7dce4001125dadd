//! A small application that speaks Artery TCP's framing, and notices a frame lost, repeated or out of order.
//!
//! As in Artery, a connection carries one direction: the dialler sends, the listener never answers with a single byte
//! (akka-remote, `ArteryTcpTransport`: "AKKA", the stream's id, then frames with a u32 little-endian length).

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::server::Server;

/// First bytes of a connection, for the stream of ordinary messages.
pub(super) const HELLO: &[u8; 5] = b"AKKA\x02";
/// Stands in every frame: whoever sees it on the wire reads the cluster's messages.
pub(super) const MARKER: &[u8] = b"bypassctl-demo-secret-message";

/// u64 connection token and u64 sequence number, little-endian, before the marker.
const NUMBERS: usize = 16;
const FRAME: usize = NUMBERS + MARKER.len();
const INTERVAL: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(1);

/// What an application received on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// Who dialled, as the application sees it.
    pub(super) peer: SocketAddr,
    /// The dialler's token, once a frame came.
    pub(super) token: Option<u64>,
    /// Frames.
    pub(super) frames: u64,
    /// Frames that were not the next one.
    pub(super) out_of_order: u64,
    /// Whether the connection is over.
    pub(super) closed: bool,
}

/// Everything that an application received; clones are the same inbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox {
    connections: Arc<Mutex<Vec<Received>>>,
}

impl Inbox {
    /// The application's remoting listener; its connections fill this inbox.
    pub(super) fn listen(&self, listener: TcpListener) -> io::Result<Server> {
        let inbox = self.clone();
        Server::start(listener, move |stream, peer| {
            let index = {
                let mut connections = inbox.lock();
                connections.push(Received { peer, token: None, frames: 0, out_of_order: 0, closed: false });
                connections.len() - 1
            };
            // However the connection ends, what counts is what came before.
            let _ = inbox.receive(index, stream);
            inbox.lock()[index].closed = true;
        })
    }

    /// How many connections there have been.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// What came with the token, once `enough` says so, or when patience ends.
    pub(super) fn wait_for(
        &self,
        token: u64,
        patience: Duration,
        enough: impl Fn(&Received) -> bool,
    ) -> Option<Received> {
        let deadline = Instant::now() + patience;
        loop {
            let found = self.lock().iter().find(|received| received.token == Some(token)).copied();
            if found.as_ref().is_some_and(&enough) || Instant::now() > deadline {
                return found;
            }
            thread::sleep(POLL);
        }
    }

    fn receive(&self, index: usize, mut stream: TcpStream) -> io::Result<()> {
        let mut hello = [0; HELLO.len()];
        stream.read_exact(&mut hello)?;
        if hello != *HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no Artery hello"));
        }
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut frame = [0; FRAME];
            if u32::from_le_bytes(length) as usize != FRAME {
                self.lock()[index].out_of_order += 1;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of another length"));
            }
            stream.read_exact(&mut frame)?;
            let (token, sequence) = (number(&frame), number(&frame[8..]));
            let received = &mut self.lock()[index];
            received.out_of_order +=
                u64::from(sequence != received.frames || received.token.is_some_and(|t| t != token));
            received.token = Some(token);
            received.frames += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Received>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// The dialling end of a connection.
#[derive(Debug)]
pub(super) struct Dialler {
    stream: TcpStream,
    token: u64,
    sent: u64,
}

impl Dialler {
    /// Says hello; the token names the connection in the other side's inbox.
    pub(super) fn greet(mut stream: TcpStream, token: u64) -> io::Result<Self> {
        stream.write_all(HELLO)?;
        Ok(Self { stream, token, sent: 0 })
    }

    /// Sends one frame.
    pub(super) fn send(&mut self) -> io::Result<()> {
        let mut frame = Vec::with_capacity(4 + FRAME);
        frame.extend(u32::try_from(FRAME).unwrap_or_default().to_le_bytes());
        frame.extend(self.token.to_le_bytes());
        frame.extend(self.sent.to_le_bytes());
        frame.extend(MARKER);
        self.stream.write_all(&frame)?;
        self.sent += 1;
        Ok(())
    }

    /// What the other side sends back within `patience`, which should be nothing: `None`. An empty text is its close.
    pub(super) fn answer(&mut self, patience: Duration) -> io::Result<Option<String>> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut bytes = [0; 1024];
        match self.stream.read(&mut bytes) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(&bytes[..length]).into_owned())),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A dialler that sends frame after frame until it is stopped.
#[derive(Debug)]
pub(super) struct Flow {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<u64>>,
}

impl Flow {
    /// Starts to send, a frame every 2 ms.
    pub(super) fn start(mut dialler: Dialler) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("flow".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    dialler.send()?;
                    thread::sleep(INTERVAL);
                }
                Ok(dialler.sent)
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Sends no more; how many frames were sent, or why no more could be.
    pub(super) fn stop(self) -> io::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn app() -> (Inbox, Server, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inbox = Inbox::default();
        let server = inbox.listen(listener).unwrap();
        (inbox, server, address)
    }

    #[test]
    fn frames_arrive_in_order_and_nothing_comes_back() {
        let (inbox, _server, address) = app();
        let mut dialler = Dialler::greet(TcpStream::connect(address).unwrap(), 7).unwrap();
        for _ in 0..3 {
            dialler.send().unwrap();
        }
        let received = inbox.wait_for(7, PATIENCE, |received| received.frames == 3).unwrap();
        assert_eq!((received.frames, received.out_of_order, received.closed), (3, 0, false));
        assert_eq!(dialler.answer(Duration::from_millis(10)).unwrap(), None);
    }

    #[test]
    fn a_lost_and_a_repeated_frame_are_noticed() {
        let (inbox, _server, address) = app();
        let mut dialler = Dialler::greet(TcpStream::connect(address).unwrap(), 7).unwrap();
        for sequence in [0, 2, 2] {
            dialler.sent = sequence;
            dialler.send().unwrap();
        }
        drop(dialler);
        let received = inbox.wait_for(7, PATIENCE, |received| received.closed).unwrap();
        assert_eq!((received.frames, received.out_of_order), (3, 1), "the third frame is where it belongs again");
    }
}
