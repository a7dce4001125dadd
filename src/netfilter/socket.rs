//! A netlink socket to nf_tables: transactions out, dumps in.
//!
//! Acts on the network namespace of the thread that opens it.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator, Parseable as _,
};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
use netlink_packet_netfilter::nftables::{NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h): the subsystem that a batch is for.
const NFTABLES_SUBSYSTEM: u16 = 10;
/// Larger than any answer: the kernel makes dump pages of at most 32 KiB (`NLMSG_GOODSIZE` and netlink's own cap).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// One message of a transaction, with the flags beside `NLM_F_REQUEST`.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) family: NetfilterProtoFamily,
    pub(super) message: NfTablesMessage,
    pub(super) flags: u16,
}

/// Why a transaction did not take place; nothing of it did.
#[derive(Debug)]
pub(super) enum TransactionError {
    /// The socket failed.
    Socket(io::Error),
    /// The kernel refused the whole.
    Refused(Errno),
    /// The kernel refused the step of this index.
    RefusedStep(usize, Errno),
}

pub(super) struct NetfilterSocket(Socket);

impl NetfilterSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers at once or never; a hang would hold up the pod's start without a word.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
        Ok(Self(socket))
    }

    /// Carries out all steps, or none.
    pub(super) fn transaction(&mut self, steps: Vec<Step>) -> Result<(), TransactionError> {
        let last = steps.len();
        let mut buffer = Vec::new();
        emit(&mut buffer, 0, 0, batch(ControlMessage::BatchBegin));
        for (i, step) in steps.into_iter().enumerate() {
            let sequence = u32::try_from(i + 1).expect("a transaction has fewer than 2^32 steps");
            let ack = if i + 1 == last { NLM_F_ACK } else { 0 };
            let header = NetfilterHeader::new(step.family, 0, 0);
            emit(&mut buffer, sequence, step.flags | ack, NetfilterMessage::new(header, step.message));
        }
        emit(&mut buffer, u32::try_from(last + 1).unwrap_or(0), 0, batch(ControlMessage::BatchEnd));
        self.grow_send_buffer(buffer.len());
        self.0.send(&buffer, 0).map_err(TransactionError::Socket)?;
        self.acknowledgement(last)
    }

    fn acknowledgement(&self, last: usize) -> Result<(), TransactionError> {
        loop {
            for message in self.receive::<NetfilterMessage>().map_err(TransactionError::Socket)? {
                let NetlinkPayload::Error(error) = message.payload else { continue };
                let step = message.header.sequence_number as usize;
                match error.code {
                    None if step == last => return Ok(()),
                    None => {}
                    Some(code) => {
                        let errno = Errno::from_raw(-code.get());
                        return Err(match step.checked_sub(1) {
                            Some(index) if index < last => TransactionError::RefusedStep(index, errno),
                            _ => TransactionError::Refused(errno),
                        });
                    }
                }
            }
        }
    }

    /// Everything of nf_tables that the kernel has of the kind that `request` asks for.
    pub(super) fn dump(
        &self,
        family: NetfilterProtoFamily,
        request: NfTablesMessage,
    ) -> io::Result<Vec<(NetfilterProtoFamily, NfTablesMessage)>> {
        let found = self.dump_all(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request))?;
        Ok(found
            .into_iter()
            .filter_map(|message: NetfilterMessage| match message.inner {
                NetfilterMessageInner::NfTables(inner) => Some((message.header.family, inner)),
                _ => None,
            })
            .collect())
    }

    /// Every connection that conntrack knows, of both families.
    pub(super) fn connections(&self) -> io::Result<Vec<Vec<ConntrackAttribute>>> {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
        let found = self.dump_all(NetfilterMessage::new(header, ConntrackMessage::Get(vec![])))?;
        Ok(found
            .into_iter()
            .filter_map(|message: NetfilterMessage| match message.inner {
                NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => Some(attributes),
                _ => None,
            })
            .collect())
    }

    /// The elements of a set.
    pub(super) fn set_elements(
        &self,
        family: NetfilterProtoFamily,
        table: &str,
        set: &str,
    ) -> io::Result<Vec<SetElement>> {
        let attributes = vec![SetElementList::Table(table.to_owned()), SetElementList::Set(set.to_owned())];
        let request = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let found = self.dump_all(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request))?;
        Ok(found.into_iter().flat_map(|SetElements(elements)| elements).collect())
    }

    fn dump_all<M: NetlinkDeserializable>(&self, request: NetfilterMessage) -> io::Result<Vec<M>> {
        let mut buffer = Vec::new();
        emit(&mut buffer, 1, NLM_F_DUMP, request);
        self.0.send(&buffer, 0)?;
        let mut found = Vec::new();
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => return error.code.map_or(Ok(found), |_| Err(error.to_io())),
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    _ => {}
                }
            }
        }
    }

    fn receive<M: NetlinkDeserializable>(&self) -> io::Result<Vec<NetlinkMessage<M>>> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        self.0.recv(&mut buffer, 0)?;
        messages(&buffer)
    }

    fn grow_send_buffer(&mut self, bytes: usize) {
        // Beyond net.core.wmem_max this needs NET_ADMIN, which a transaction needs anyway; if it fails, so will send().
        if bytes > 100 * 1024 {
            let _ = setsockopt(&self.0, sockopt::SndBufForce, &(2 * bytes));
        }
    }
}

/// What is known of an element of a set.
pub(super) type SetElement = Vec<SetElementAttribute>;

/// One message's elements. The crate's own reading of the list prints all of it once an element, in case an error needs it,
/// so that a thousand ports take seconds.
struct SetElements(Vec<SetElement>);

impl NetlinkDeserializable for SetElements {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        /// `struct nfgenmsg` and `NFTA_SET_ELEM_LIST_ELEMENTS` (linux/netfilter/nfnetlink.h, nf_tables.h).
        const HEADER: usize = 4;
        const ELEMENTS: u16 = 3;
        let mut elements = Vec::new();
        for attribute in NlasIterator::new(payload.get(HEADER..).unwrap_or_default()) {
            let attribute = attribute?;
            if attribute.kind() != ELEMENTS {
                continue;
            }
            for element in NlasIterator::new(attribute.value()) {
                let element = element?;
                let parts = NlasIterator::new(element.value()).map(|part| SetElementAttribute::parse(&part?));
                elements.push(parts.collect::<Result<_, _>>()?);
            }
        }
        Ok(Self(elements))
    }
}

/// The elements of sets that these messages list, for the fuzzer.
#[cfg(feature = "fuzzing")]
pub(super) fn set_elements(bytes: &[u8]) -> Vec<SetElement> {
    let messages = messages::<SetElements>(bytes).unwrap_or_default();
    let lists = messages.into_iter().filter_map(|message| match message.payload {
        NetlinkPayload::InnerMessage(SetElements(elements)) => Some(elements),
        _ => None,
    });
    lists.flatten().collect()
}

/// The messages of one answer.
pub(super) fn messages<M: NetlinkDeserializable>(mut rest: &[u8]) -> io::Result<Vec<NetlinkMessage<M>>> {
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let length = NetlinkBuffer::new_checked(rest).map_err(undecodable)?.length() as usize;
        messages.push(decode(rest)?);
        // Messages are aligned to four bytes (NLMSG_ALIGN).
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

/// The first message of these. The crate takes lengths inside of nested attributes on trust, and panics where they are
/// wrong (`NlaBuffer::new` in netlink-packet-netfilter 0.4.0, found by fuzzing).
pub(super) fn decode<M: NetlinkDeserializable>(bytes: &[u8]) -> io::Result<NetlinkMessage<M>> {
    let decoded = std::panic::catch_unwind(|| NetlinkMessage::deserialize(bytes));
    decoded.map_err(|_| undecodable("a length inside of it is wrong"))?.map_err(undecodable)
}

fn batch(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES_SUBSYSTEM), message)
}

fn emit(buffer: &mut Vec<u8>, sequence: u32, flags: u16, message: NetfilterMessage) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = buffer.len();
    buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut buffer[start..start + message.buffer_len()]);
}

fn undecodable(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's netlink answer cannot be decoded: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_inside_an_answer_is_an_error_and_no_panic() {
        let answer = include_bytes!("../../fuzz/corpus/netfilter_answer/wrong-length-inside");
        assert!(messages::<NetfilterMessage>(answer).is_err());
    }
}
