//! Load for a pair of proxies, and the app behind it. Started by `benches/pairs/run`, see docs/benchmarks.md.
//!
//! The first byte of a connection tells the app what to do: `S` counts and drops, `E` echoes what follows, anything else
//! is answered with itself.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Reads and writes of bulk, and what is lost of an interrupted write is no more than this.
const CHUNK: usize = 256 * 1024;
const WARM_UP: Duration = Duration::from_millis(500);

static BYTES: AtomicU64 = AtomicU64::new(0);

/// `load KIND TARGET CONNECTIONS MILLISECONDS SIZE`; the kinds are app, bulk, echo, dial, idle.
#[tokio::main(worker_threads = 2)]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, target, connections, millis, size] = args.as_slice() else {
        return Err("give a kind, a target, connections, milliseconds and a size; see scripts/bench".into());
    };
    let (target, connections, size) = (target.parse()?, connections.parse()?, size.parse()?);
    let time = Duration::from_millis(millis.parse()?);
    match kind.as_str() {
        "app" => app(target).await,
        "bulk" => bulk(target, connections, time).await,
        "echo" => echo(target, connections, time, size).await,
        "dial" => dial(target, connections, time).await,
        "idle" => idle(target, connections, size).await,
        other => Err(format!("no such load: {other}").into()),
    }
}

/// Serves for ever; answers each line on standard input with the bytes that were dropped until then.
async fn app(address: SocketAddr) -> Fallible<()> {
    let listener = TcpListener::bind(address).await?;
    std::thread::spawn(|| {
        for _ in std::io::stdin().lines() {
            println!("{}", BYTES.load(Ordering::Relaxed));
        }
    });
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that goes away ends its own connection.
        tokio::spawn(async move { drop(serve(stream).await) });
    }
}

async fn serve(mut stream: TcpStream) -> Fallible<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind).await?;
    let mut buffer = vec![0; if kind == *b"S" { CHUNK } else { 4096 }];
    if !matches!(&kind, b"S" | b"E") {
        stream.write_all(&kind).await?;
    }
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read if kind == *b"S" => drop(BYTES.fetch_add(read as u64, Ordering::Relaxed)),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn connect(target: SocketAddr, kind: u8) -> Fallible<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    stream.write_u8(kind).await?;
    Ok(stream)
}

async fn bulk(target: SocketAddr, connections: usize, time: Duration) -> Fallible<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let mut stream = connect(target, b'S').await?;
        tasks.spawn(tokio::time::timeout(time, async move {
            let chunk: Vec<u8> = (0..CHUNK).map(|i| (i % 251) as u8).collect();
            loop {
                stream.write_all(&chunk).await?;
            }
        }));
    }
    let ends: Vec<Result<std::io::Result<()>, _>> = tasks.join_all().await;
    println!("{}", json!({ "errors": ends.iter().filter(|end| end.is_ok()).count() }));
    Ok(())
}

/// Round trips of small messages, one under way in each connection.
async fn echo(target: SocketAddr, connections: usize, time: Duration, size: usize) -> Fallible<()> {
    let mut tasks: JoinSet<Fallible<Vec<Duration>>> = JoinSet::new();
    for _ in 0..connections {
        let mut stream = connect(target, b'E').await?;
        tasks.spawn(async move {
            let (message, mut answer, mut took) = (vec![7; size], vec![0; size], Vec::new());
            let start = Instant::now();
            while start.elapsed() < WARM_UP + time {
                let sent = Instant::now();
                stream.write_all(&message).await?;
                stream.read_exact(&mut answer).await?;
                if sent.duration_since(start) >= WARM_UP {
                    took.push(sent.elapsed());
                }
            }
            Ok(took)
        });
    }
    report(tasks.join_all().await, time);
    Ok(())
}

/// New connections, one after the other on each of so many tracks, each until a byte has come back.
async fn dial(target: SocketAddr, tracks: usize, time: Duration) -> Fallible<()> {
    let mut tasks: JoinSet<Fallible<Vec<Duration>>> = JoinSet::new();
    for _ in 0..tracks {
        tasks.spawn(async move {
            let (start, mut took) = (Instant::now(), Vec::new());
            while start.elapsed() < time {
                let dialled = Instant::now();
                connect(target, b'D').await?.read_u8().await?;
                took.push(dialled.elapsed());
            }
            Ok(took)
        });
    }
    report(tasks.join_all().await, time);
    Ok(())
}

fn report(tracks: Vec<Fallible<Vec<Duration>>>, time: Duration) {
    let errors = tracks.iter().filter(|track| track.is_err()).count();
    let mut took: Vec<Duration> = tracks.into_iter().flatten().flatten().collect();
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 100).map_or(f64::NAN, |t| t.as_secs_f64() * 1e6);
    let per_s = took.len() as f64 / time.as_secs_f64();
    println!(
        "{}",
        json!({ "errors": errors, "count": took.len(), "per_s": per_s, "p50_us": at(50), "p99_us": at(99) })
    );
}

/// Opens connections that each have moved `size` bytes there and back, says so, and holds them until standard input ends.
async fn idle(target: SocketAddr, connections: usize, size: usize) -> Fallible<()> {
    let at_once = Arc::new(Semaphore::new(16));
    let mut tasks: JoinSet<Fallible<TcpStream>> = JoinSet::new();
    for _ in 0..connections {
        let at_once = Arc::clone(&at_once);
        tasks.spawn(async move {
            let _permit = at_once.acquire_owned().await?;
            let mut stream = connect(target, b'E').await?;
            let (mut read, mut write) = stream.split();
            let (message, mut answer) = (vec![7; size], vec![0; size]);
            let (written, read) = tokio::join!(write.write_all(&message), read.read_exact(&mut answer));
            written?;
            read?;
            Ok(stream)
        });
    }
    let held: Vec<TcpStream> = tasks.join_all().await.into_iter().flatten().collect();
    println!("{}", json!({ "open": held.len() }));
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    Ok(())
}
