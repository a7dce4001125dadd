//! A TCP server of threads, for servers as small as the demo's.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use socket2::SockRef;

type Handler = dyn Fn(TcpStream, SocketAddr) + Send + Sync;

/// A listener whose connections each get a thread; dropped, it listens no more.
#[derive(Debug)]
pub(super) struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Hands every connection, with its peer, to `handle`. The address of an IPv4 peer is never written as IPv6.
    pub(super) fn start(
        listener: TcpListener,
        handle: impl Fn(TcpStream, SocketAddr) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = Arc::new(listener);
        let handle: Arc<Handler> = Arc::new(handle);
        let thread = thread::Builder::new().name("server".to_owned()).spawn({
            let listener = Arc::clone(&listener);
            // Until the shutdown on drop, which makes accept fail.
            move || {
                while let Ok((stream, peer)) = listener.accept() {
                    let handle = Arc::clone(&handle);
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    // Without a thread to spare, the connection is closed, which its dialler reports.
                    let _ = thread::Builder::new().name("serve".to_owned()).spawn(move || handle(stream, peer));
                }
            }
        })?;
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
