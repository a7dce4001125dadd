//! What nf_tables has in a namespace, as the kernel tells it, byte for byte.
//!
//! Reading only, to show that two states are the same: nothing is interpreted but the name of the table, and the
//! counters, whose values are left out.

use std::io;
use std::ops::Range;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_GETTABLE`, `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE` (linux/netfilter/nf_tables.h).
const GET: [u16; 3] = [1, 4, 7];
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` are all 1.
const TABLE_ATTRIBUTE: u16 = 1;
/// `NFT_MSG_NEWRULE`, and in it `NFTA_RULE_EXPRESSIONS`, a list of `NFTA_LIST_ELEM`, each with `NFTA_EXPR_NAME` and
/// `NFTA_EXPR_DATA`.
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_DATA: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// struct nlmsghdr, and struct nfgenmsg after it.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// Tables, chains and rules of a namespace, with their handles, in the kernel's bytes.
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
                let mut attributes = attributes.to_vec();
                if kind == NEW_RULE {
                    clear_counters(&mut attributes);
                }
                objects.push(Object { kind, family: generic[0], table, attributes });
            }
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn table_name(attributes: &[u8]) -> Option<String> {
    let (_, value) = spans(attributes).into_iter().find(|(kind, _)| *kind == TABLE_ATTRIBUTE)?;
    let name = &attributes[value];
    Some(String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned())
}

/// Packets and bytes counted are no part of what a rule is.
fn clear_counters(rule: &mut [u8]) {
    for list in spans(rule).into_iter().filter(|(kind, _)| *kind == RULE_EXPRESSIONS).map(|(_, value)| value) {
        let list = &mut rule[list];
        for (_, expression) in spans(list) {
            let expression = &mut list[expression];
            let parts = spans(expression);
            if parts.iter().any(|(_, value)| expression[value.clone()] == *b"counter\0") {
                for (_, data) in parts.into_iter().filter(|(kind, _)| *kind == EXPRESSION_DATA) {
                    expression[data].fill(0);
                }
            }
        }
    }
}

/// Type and place of the value of each attribute (struct nlattr: u16 length with its header, u16 type).
fn spans(attributes: &[u8]) -> Vec<(u16, Range<usize>)> {
    let mut spans = Vec::new();
    let mut at = 0;
    while let Some([l0, l1, t0, t1]) = attributes.get(at..).and_then(<[u8]>::first_chunk) {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        if length < 4 || at + length > attributes.len() {
            break;
        }
        // The two highest bits say "nested" and "network byte order".
        spans.push((u16::from_ne_bytes([*t0, *t1]) & 0x3fff, at + 4..at + length));
        at += length.next_multiple_of(4);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn rule_message(table: &str, expression: &str, data: u8) -> Vec<u8> {
        let named = attribute(1, format!("{expression}\0").as_bytes());
        let element = [named, attribute(0x8000 | EXPRESSION_DATA, &attribute(1, &[data]))].concat();
        let expressions = attribute(0x8000 | RULE_EXPRESSIONS, &attribute(0x8001, &element));
        let attributes = [attribute(TABLE_ATTRIBUTE, format!("{table}\0").as_bytes()), expressions].concat();
        let length = HEADER + GENERIC_HEADER + attributes.len();
        let mut message = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        message.extend(NEW_RULE.to_ne_bytes());
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
        let before = snapshot(&[rule_message("mesh", "cmp", 1), rule_message("bypassctl", "cmp", 1)]);
        let after = snapshot(&[rule_message("mesh", "cmp", 1), rule_message("bypassctl", "cmp", 2)]);
        assert_ne!(before, after);
        assert_eq!(before.of_table("mesh"), after.of_table("mesh"));
        assert_eq!(before.tables(), ["bypassctl", "mesh"]);
    }

    #[test]
    fn a_packet_counted_is_no_change() {
        assert_eq!(snapshot(&[rule_message("mesh", "counter", 1)]), snapshot(&[rule_message("mesh", "counter", 2)]));
    }
}
