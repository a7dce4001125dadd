//! What the kernel tells of changes to nf_tables, by its multicast group.
//!
//! Invariant: a change is never missed, only told late or twice: what overflows the socket counts as a change.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{NetlinkBuffer, NetlinkPayload};
use netlink_packet_netfilter::nftables::{GenAttribute, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netfilter::{NetfilterError, socket};

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;
/// A tool that applies rule by rule is heard out for so long after its last one, but no longer than [`LONGEST`].
const QUIET: Duration = Duration::from_millis(30);
const LONGEST: Duration = Duration::from_millis(500);
const BUFFER: usize = 64 * 1024;

/// A subscription to the changes of this network namespace.
pub(super) struct Events(Socket);

/// Why the wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// Somebody wants no more of it.
    Stopped,
    /// Nothing happened.
    Quiet,
    /// Rules changed; by whom, if the kernel told.
    Changed(Option<String>),
}

impl Events {
    /// Subscribes, in the calling thread's network namespace.
    ///
    /// # Errors
    /// Without NET_ADMIN, and where there is no nf_tables.
    pub(super) fn subscribe() -> Result<Self, NetfilterError> {
        let failed = |source: io::Error| match source.raw_os_error().map(Errno::from_raw) {
            Some(errno @ (Errno::EPERM | Errno::EACCES)) => NetfilterError::NotPermitted(errno),
            Some(errno @ (Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT)) => NetfilterError::Unsupported(errno),
            _ => NetfilterError::Socket { attempted: "listening for changes", source },
        };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.add_membership(NFTABLES_GROUP).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        Ok(Self(socket))
    }

    /// Waits for a change, for the other end of `stop` to close, or for the time to pass.
    pub(super) fn wait(&self, stop: BorrowedFd<'_>, patience: Duration) -> io::Result<Woken> {
        match self.poll(stop, patience)? {
            Woken::Changed(_) => {}
            other => return Ok(other),
        }
        let begun = Instant::now();
        let mut by = None;
        loop {
            if let Some(name) = self.drain()? {
                by = Some(name);
            }
            if begun.elapsed() >= LONGEST {
                return Ok(Woken::Changed(by));
            }
            match self.poll(stop, QUIET)? {
                Woken::Changed(_) => {}
                Woken::Quiet => return Ok(Woken::Changed(by)),
                Woken::Stopped => return Ok(Woken::Stopped),
            }
        }
    }

    /// The same where the kernel tells nothing.
    pub(super) fn wait_without(stop: BorrowedFd<'_>, patience: Duration) -> io::Result<Woken> {
        let mut descriptors = [PollFd::new(stop, PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => Ok(Woken::Quiet),
            Ok(_) => Ok(Woken::Stopped),
            Err(errno) => Err(errno.into()),
        }
    }

    fn poll(&self, stop: BorrowedFd<'_>, patience: Duration) -> io::Result<Woken> {
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, patience) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Woken::Quiet),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let happened = |descriptor: &PollFd<'_>| descriptor.revents().is_some_and(|events| !events.is_empty());
        Ok(if happened(&descriptors[1]) { Woken::Stopped } else { Woken::Changed(None) })
    }

    /// Takes what is there; who made the last change.
    fn drain(&self) -> io::Result<Option<String>> {
        let mut by = None;
        loop {
            let mut buffer = Vec::with_capacity(BUFFER);
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => by = author(&buffer).or(by),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(by),
                // More than the socket holds: what is lost was changes.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The process behind a transaction, from the message that ends it.
pub(super) fn author(mut rest: &[u8]) -> Option<String> {
    let mut by = None;
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let length = header.length() as usize;
        if let Ok(message) = socket::decode::<NetfilterMessage>(rest)
            && let NetlinkPayload::InnerMessage(message) = message.payload
            && let NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(generation)) = message.inner
        {
            let (mut pid, mut name) = (None, None);
            for attribute in generation.attributes {
                match attribute {
                    GenAttribute::ProcPid(number) => pid = Some(number),
                    GenAttribute::ProcName(text) => name = Some(text),
                    _ => {}
                }
            }
            // The kernel gives the number that the node knows the process by (nf_tables_fill_gen_info).
            by = name.zip(pid).map(|(name, pid)| format!("{name} (process {pid} of the node)"));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    by
}
