//! Accepts connections of one direction, never more than the limits allow.
//!
//! Invariant: beyond the limits at most one connection is taken from the kernel, to see whose it is; the others wait in its
//! backlog.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::outcome::Reason;
use crate::core::route::Direction;
use crate::proxy::connection::Connection;
use crate::proxy::handshake::Seen;
use crate::proxy::unfinished::{Anteroom, NoPlace, Unfinished};
use crate::proxy::workers::Seat;
use crate::proxy::{Joined, Sidecar, inbound, outbound};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// As many as wait in a backlog; a flood is not to hold up the end.
const MOST_DISMISSED: usize = 4096;

/// What an accepted connection has.
#[derive(Debug)]
enum Place {
    /// The app's: room for as long as it lives.
    Own(OwnedSemaphorePermit),
    /// A stranger's: a place until it has shown who it is.
    Strangers(Unfinished),
}

/// Accepts until the sidecar stops accepting.
pub(super) async fn run(listeners: Vec<TcpListener>, direction: Direction, sidecar: Arc<Sidecar>) {
    let limits = &sidecar.config.limits;
    let open = Arc::new(Semaphore::new(limits.max_connections as usize));
    let anteroom = Anteroom::new(limits.max_handshakes, Arc::clone(&open));
    let stop = sidecar.lifecycle.stop_accepting.clone();
    let mut pause = FIRST_PAUSE;
    let mut turn = 0;
    loop {
        let next = async {
            let room = room(&open, direction, &sidecar).await;
            // Who has not shown who it is takes no room from those who have.
            let own = (direction == Direction::Outbound).then_some(room);
            turn += 1;
            let (stream, from) = poll_fn(|cx| poll_accept(&listeners, turn, cx)).await?;
            let place = match own {
                Some(room) => Ok(Place::Own(room)),
                None => enter(&anteroom, from.ip(), &sidecar).await.map(Place::Strangers),
            };
            io::Result::Ok((stream, from, place))
        };
        let next = tokio::select! {
            () = stop.cancelled() => return dismiss(&listeners, direction, &sidecar),
            next = next => next,
        };
        match next {
            Ok((stream, from, place)) => {
                pause = FIRST_PAUSE;
                let place = match place {
                    Ok(place) => place,
                    Err(reason) => {
                        inbound::refuse(&stream, &Seen::default(), &sidecar);
                        let mut refused = sidecar.board.connection(direction, from, &sidecar.metrics);
                        sidecar.ended(&mut refused, reason);
                        continue;
                    }
                };
                // The socket belongs to the reactor of the thread that serves it.
                let Ok(stream) = stream.into_std() else { continue };
                let (worker, seat) = sidecar.workers.least_busy();
                let served = serve(stream, from, direction, Arc::clone(&sidecar), seat, place);
                sidecar.lifecycle.connections.spawn_on(served, worker);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                sidecar.metrics.accept_error(direction);
                // Out of descriptors or memory: strangers are not to keep what they have of them from peers, and trying again at
                // once would only burn the processor.
                anteroom.relieve();
                if pause == FIRST_PAUSE && sidecar.full.may_say("descriptors") {
                    tracing::warn!(direction = direction.name(), %error, "cannot accept connections; trying again");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Refuses in words those that the kernel has accepted. It would reset them as the listeners are closed, and to a peer that may
/// use plaintext that looks like a want of TLS.
fn dismiss(listeners: &[TcpListener], direction: Direction, sidecar: &Sidecar) {
    if direction == Direction::Outbound {
        return;
    }
    let accept = || poll_fn(|cx| poll_accept(listeners, 0, cx)).now_or_never();
    for (stream, _) in std::iter::from_fn(|| accept()?.ok()).take(MOST_DISMISSED) {
        inbound::refuse(&stream, &Seen::default(), sidecar);
    }
}

/// Room for one more connection, once there is some.
async fn room(open: &Arc<Semaphore>, direction: Direction, sidecar: &Sidecar) -> OwnedSemaphorePermit {
    if let Ok(place) = Arc::clone(open).try_acquire_owned() {
        return place;
    }
    say_full(sidecar, direction, "--max-connections");
    Arc::clone(open).acquire_owned().await.expect("nobody closes this semaphore")
}

/// A place among the unfinished, once there is one, unless the source has too many.
async fn enter(anteroom: &Arc<Anteroom>, source: IpAddr, sidecar: &Sidecar) -> Result<Unfinished, Reason> {
    let mut is_said = false;
    loop {
        match anteroom.enter(source) {
            Ok(place) => return Ok(place),
            Err(NoPlace::Greedy) => return Err(Reason::TooManyUnfinished),
            Err(NoPlace::Full) => {
                if !is_said {
                    say_full(sidecar, Direction::Inbound, "--max-handshakes");
                    is_said = true;
                }
                anteroom.freed().await;
            }
        }
    }
}

/// Who is kept waiting sees nothing but silence, so the log and a metric say it.
fn say_full(sidecar: &Sidecar, direction: Direction, option: &'static str) {
    sidecar.metrics.waited(direction, option);
    if sidecar.full.may_say(option) {
        tracing::warn!(
            direction = direction.name(),
            option,
            "as many connections as may be: others wait until one of them ends"
        );
    }
}

/// Asks the listeners in turn, so that a flood on one cannot starve another.
fn poll_accept(
    listeners: &[TcpListener],
    turn: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    for i in 0..listeners.len() {
        if let Poll::Ready(accepted) = listeners[(turn + i) % listeners.len()].poll_accept(cx) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

/// Errors of the connection that was to be accepted, not of the listener (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Serves a connection to its end.
///
/// No `async fn`: it would keep its arguments twice, for the days that a connection lives.
fn serve(
    stream: std::net::TcpStream,
    from: SocketAddr,
    direction: Direction,
    sidecar: Arc<Sidecar>,
    seat: Seat,
    place: Place,
) -> impl Future<Output = ()> + Send {
    let mut connection = sidecar.board.connection(direction, from, &sidecar.metrics);
    let arrived = Box::new((stream, place));
    async move {
        let _seat = &seat;
        let stop = &sidecar.lifecycle.end;
        // Boxed: what dialling and the handshake need is not to be kept that long either, nor is what they came to.
        let joined = match Box::pin(stop.run_until_cancelled(meet(arrived, &sidecar, &mut connection))).await {
            Some(Some(Ok(joined))) => joined,
            Some(Some(Err(reason))) => return sidecar.ended(&mut connection, reason),
            Some(None) => return,
            None => return sidecar.ended(&mut connection, Reason::Drained),
        };
        let reason = sidecar.pump(joined, &mut connection).await;
        if direction == Direction::Outbound {
            outbound::learn(&sidecar, &connection, reason);
        }
        sidecar.ended(&mut connection, reason);
    }
}

/// App and peer; `None` if there is nothing to be said of the connection.
async fn meet(
    arrived: Box<(std::net::TcpStream, Place)>,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Option<Result<Joined, Reason>> {
    let (stream, place) = *arrived;
    // A socket that cannot be registered is out of kernel memory; closing it tells the other side.
    let stream = TcpStream::from_std(stream).ok()?;
    match place {
        Place::Strangers(unfinished) => Some(inbound::meet(stream, unfinished, sidecar, connection).await),
        Place::Own(room) => outbound::meet(stream, room, sidecar, connection).await,
    }
}
