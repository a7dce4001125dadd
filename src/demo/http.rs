//! As much HTTP as the demo's applications need: one GET a connection.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::server::Server;

/// Header by which a server of the demo says who it is; real servers behind a mesh have much the same.
const SERVED_BY: &str = "served-by: ";
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_REQUEST: u64 = 8192;

/// A response of a server that calls itself `who`.
pub(super) fn response(who: &str, status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{SERVED_BY}{who}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// Who says that it wrote this response.
pub(super) fn served_by(response: &str) -> Option<&str> {
    response.split("\r\n").find_map(|line| line.strip_prefix(SERVED_BY))
}

/// Serves GET requests: `respond` gets path and peer, and returns the body of a 200, or `None` for a 404.
pub(super) fn serve(
    listener: TcpListener,
    who: String,
    respond: impl Fn(&str, SocketAddr) -> Option<String> + Send + Sync + 'static,
) -> io::Result<Server> {
    Server::start(listener, move |mut stream, peer| {
        let answer = |stream: &mut TcpStream| -> io::Result<()> {
            let head = read_head(stream)?;
            let path = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            let text = match respond(path, peer) {
                Some(body) => response(&who, "200 OK", &body),
                None => response(&who, "404 Not Found", ""),
            };
            stream.write_all(text.as_bytes())
        };
        // A client that leaves early, or sends no HTTP, has seen it.
        let _ = answer(&mut stream);
    })
}

/// Answers every connection at once, whatever it says: what a proxy of a mesh does here instead of proxying.
pub(super) fn answer_all(listener: TcpListener, who: String, body: String) -> io::Result<Server> {
    Server::start(listener, move |mut stream, _| {
        let answer = |stream: &mut TcpStream| -> io::Result<()> {
            stream.write_all(response(&who, "200 OK", &body).as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            // Closed with bytes unread, the kernel would send a reset, and the client lose the answer.
            stream.set_read_timeout(Some(PATIENCE))?;
            io::copy(&mut stream.take(LONGEST_REQUEST), &mut io::sink())?;
            Ok(())
        };
        let _ = answer(&mut stream);
    })
}

/// GETs a path; the whole response as text.
pub(super) fn get(mut stream: TcpStream, path: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// The status code of a response, and its body.
pub(super) fn parse(response: &str) -> Option<(u16, &str)> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && (head.len() as u64) < LONGEST_REQUEST {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn a_server_says_who_it_is_and_what_it_does_not_have() {
        let (listener, address) = listener();
        let _server =
            serve(listener, "app a".to_owned(), |path, _| (path == "/ready").then(|| "OK".to_owned())).unwrap();
        let ready = get(TcpStream::connect(address).unwrap(), "/ready").unwrap();
        assert_eq!((served_by(&ready), parse(&ready)), (Some("app a"), Some((200, "OK"))));
        let missing = get(TcpStream::connect(address).unwrap(), "/elsewhere").unwrap();
        assert_eq!(parse(&missing), Some((404, "")));
    }

    #[test]
    fn a_server_that_answers_all_answers_before_it_is_asked() {
        let (listener, address) = listener();
        let _server = answer_all(listener, "mesh a out".to_owned(), "captured".to_owned()).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(served_by(&answer), Some("mesh a out"));
    }
}
