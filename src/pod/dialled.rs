//! TCP connections that processes of this network namespace have dialled, or have accepted, from /proc/net/tcp and tcp6.

use std::io;
use std::net::SocketAddr;

use crate::pod::listeners;

/// States in which bytes may go, by their numbers: `TCP_ESTABLISHED`, `TCP_SYN_SENT`, `TCP_CLOSE_WAIT` (linux/tcp_states.h).
const OPEN: [&str; 3] = ["01", "02", "08"];

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The other end.
    pub remote: SocketAddr,
    /// Whose it is.
    pub uid: u32,
}

/// Every end that is open.
///
/// # Errors
/// If /proc/net/tcp cannot be read.
pub fn open_ends() -> io::Result<Vec<End>> {
    let tables = listeners::tables()?;
    Ok(tables.iter().flat_map(|table| parse(table)).collect())
}

/// The open ends of one table (Documentation/networking/proc_net_tcp.rst).
pub(super) fn parse(table: &str) -> impl Iterator<Item = End> + '_ {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(2);
        let (remote, state) = (columns.next()?, columns.next()?);
        let uid = columns.nth(3)?;
        if !OPEN.contains(&state) {
            return None;
        }
        Some(End { remote: listeners::address(remote)?, uid: uid.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn open_ends_are_read_and_others_passed_over() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0B004D0A:09F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1\n   \
             1: 0B004D0A:C000 0C004D0A:09F8 01 00000000:00000000 02:00000000 00000000  1000        0 2 2\n   \
             2: 0B004D0A:C002 0C004D0A:09F8 06 00000000:00000000 03:00000000 00000000     0        0 0 3\n";
        let ends: Vec<End> = parse(table).collect();
        assert_eq!(ends, [End { remote: "10.77.0.12:2552".parse().unwrap(), uid: 1000 }]);
    }
}
