//! What nf_tables has in a namespace, as the kernel tells it, byte for byte.
//!
//! Reading only, and nothing is interpreted but the name of the table: to show that two states are the same.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_GETTABLE`, `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE` (linux/netfilter/nf_tables.h).
const GET: [u16; 3] = [1, 4, 7];
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` are all 1.
const TABLE_ATTRIBUTE: u16 = 1;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// struct nlmsghdr, and struct nfgenmsg after it.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// Tables, chains and rules of a namespace, with their handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    objects: Vec<Object>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    kind: u16,
    family: u8,
    table: String,
    attributes: Vec<u8>,
}

impl Snapshot {
    /// What the calling thread's namespace has.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN, `EPROTONOSUPPORT` or `EINVAL` without nf_tables.
    pub fn take() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut objects = Vec::new();
        for get in GET {
            socket.send(&request(get), 0)?;
            while read_some(&socket.recv_from_full()?.0, &mut objects)? {}
        }
        Ok(Self { objects })
    }

    /// The names of the tables.
    #[must_use]
    pub fn tables(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.objects.iter().map(|object| object.table.as_str()).collect();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// One table of it, with its chains and rules.
    #[must_use]
    pub fn of_table(&self, name: &str) -> Self {
        Self { objects: self.objects.iter().filter(|object| object.table == name).cloned().collect() }
    }

    /// How many tables, chains and rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is no table at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

fn request(get: u16) -> Vec<u8> {
    let length = u32::try_from(HEADER + GENERIC_HEADER).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend((SUBSYSTEM << 8 | get).to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    // Sequence number, port, and a struct nfgenmsg: every family, version 0.
    message.extend([0; 8 + GENERIC_HEADER]);
    message
}

/// Takes the objects of one datagram; whether more are to come.
fn read_some(mut datagram: &[u8], objects: &mut Vec<Object>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message");
    while let Some(header) = datagram.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = datagram.get(HEADER..length).ok_or_else(malformed)?;
        match kind {
            DONE => return Ok(false),
            ERROR => {
                let code = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => {
                let (generic, attributes) = body.split_at_checked(GENERIC_HEADER).ok_or_else(malformed)?;
                let table = table_name(attributes).ok_or_else(malformed)?;
                objects.push(Object { kind, family: generic[0], table, attributes: attributes.to_vec() });
            }
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn table_name(mut attributes: &[u8]) -> Option<String> {
    loop {
        let header = attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == TABLE_ATTRIBUTE {
            let name = attributes.get(4..length)?;
            return Some(String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule_message(table: &str, payload: u8) -> Vec<u8> {
        let mut name = table.as_bytes().to_vec();
        name.push(0);
        let mut attributes = u16::try_from(4 + name.len()).unwrap().to_ne_bytes().to_vec();
        attributes.extend(TABLE_ATTRIBUTE.to_ne_bytes());
        attributes.extend(&name);
        attributes.resize(attributes.len().next_multiple_of(4), 0);
        attributes.extend([5, 0, 9, 0, payload, 0, 0, 0]);
        let length = HEADER + GENERIC_HEADER + attributes.len();
        let mut message = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        message.extend((SUBSYSTEM << 8 | 6).to_ne_bytes());
        message.extend([0; 10 + GENERIC_HEADER]);
        message.extend(attributes);
        message
    }

    fn snapshot(messages: &[Vec<u8>]) -> Snapshot {
        let mut objects = Vec::new();
        assert!(read_some(&messages.concat(), &mut objects).unwrap());
        Snapshot { objects }
    }

    #[test]
    fn a_changed_rule_of_one_table_leaves_the_other_table_the_same() {
        let before = snapshot(&[rule_message("mesh", 1), rule_message("bypassctl", 1)]);
        let after = snapshot(&[rule_message("mesh", 1), rule_message("bypassctl", 2)]);
        assert_ne!(before, after);
        assert_eq!(before.of_table("mesh"), after.of_table("mesh"));
        assert_eq!(before.tables(), ["bypassctl", "mesh"]);
    }
}
