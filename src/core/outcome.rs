//! How a connection ended.

use std::fmt;

use serde::Serialize;

use crate::core::wire::FirstBytes;

/// Why a connection ended; the codes are stable, logs and metrics carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Both sides closed.
    Closed,
    /// The app reset the connection.
    AppReset,
    /// The peer, or the network, reset the connection.
    PeerReset,
    /// The peer answered neither bytes nor keepalives, or took no bytes, for as long as it may.
    PeerTimedOut,
    /// The peer's stream ended without close_notify: it may have been cut by anybody.
    Truncated,
    /// The peer sent what is no TLS, or not what TLS allows now: it was changed on the way, or the peer is broken.
    TlsBroken,
    /// The peer ended the connection with a TLS alert; it may not know or not allow our certificate.
    RefusedByPeer,
    /// One side closed, then nothing moved for the half-close timeout.
    HalfCloseTimeout,
    /// The sidecar stopped.
    Drained,
    /// Our credentials have changed, and connections made with the earlier ones are replaced.
    Recycled,
    /// The peer's certificate, or one that vouches for it, was revoked while the connection was open.
    Revoked,
    /// The peer could not be connected.
    PeerUnreachable,
    /// This pod or node has no descriptors, ports or memory left to dial with.
    NoResources,
    /// The app could not be connected.
    AppUnreachable,
    /// The peer's certificate leads to none of our roots, or is not valid now.
    Untrusted,
    /// The peer's identity is not allowed.
    Denied,
    /// The peer showed no certificate.
    NoCertificate,
    /// The TLS handshake failed.
    HandshakeFailed,
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// The peer sent nothing.
    PeerSilent,
    /// The source address has too many unfinished handshakes already.
    TooManyUnfinished,
    /// The other pod has as many connections as it may.
    TooManyOfPeer,
    /// The peer could not be had lately, and is left alone for a while.
    CircuitOpen,
    /// Somebody ordered the fault.
    FaultInjected,
    /// The peer spoke plaintext, and the mode is strict.
    PlaintextRefused,
    /// The connection was not redirected to us.
    NotRedirected,
    /// The app's connection came without a word of where it was going.
    NoDestination,
    /// The original destination is our own listener.
    Loop,
    /// The original destination's port is none of the remoting ports.
    NotRemoting,
}

/// How bad an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// Daily life.
    Normal,
    /// Refused: by policy, or for what the other side did.
    Refusal,
    /// Something does not work.
    Fault,
}

impl Reason {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::AppReset => "app_reset",
            Self::PeerReset => "peer_reset",
            Self::PeerTimedOut => "peer_timed_out",
            Self::Truncated => "truncated",
            Self::TlsBroken => "tls_broken",
            Self::RefusedByPeer => "refused_by_peer",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::Drained => "drained",
            Self::Recycled => "recycled",
            Self::Revoked => "revoked",
            Self::PeerUnreachable => "peer_unreachable",
            Self::NoResources => "no_resources",
            Self::AppUnreachable => "app_unreachable",
            Self::Untrusted => "untrusted",
            Self::Denied => "denied",
            Self::NoCertificate => "no_certificate",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::PeerSilent => "peer_silent",
            Self::TooManyUnfinished => "too_many_unfinished",
            Self::TooManyOfPeer => "too_many_of_peer",
            Self::CircuitOpen => "circuit_open",
            Self::FaultInjected => "fault_injected",
            Self::PlaintextRefused => "plaintext_refused",
            Self::NotRedirected => "not_redirected",
            Self::NoDestination => "no_destination",
            Self::Loop => "loop",
            Self::NotRemoting => "not_remoting",
        }
    }

    /// How bad it is.
    #[must_use]
    pub const fn gravity(self) -> Gravity {
        match self {
            Self::Closed
            | Self::AppReset
            | Self::PeerReset
            | Self::HalfCloseTimeout
            | Self::Drained
            | Self::Recycled => Gravity::Normal,
            Self::Revoked
            | Self::Untrusted
            | Self::Denied
            | Self::NoCertificate
            | Self::HandshakeFailed
            | Self::HandshakeTimeout
            | Self::PeerSilent
            | Self::TooManyUnfinished
            | Self::TooManyOfPeer
            | Self::PlaintextRefused
            | Self::NotRedirected
            | Self::NoDestination
            | Self::Loop
            | Self::NotRemoting => Gravity::Refusal,
            Self::Truncated
            | Self::TlsBroken
            | Self::RefusedByPeer
            | Self::PeerUnreachable
            | Self::NoResources
            | Self::AppUnreachable
            | Self::PeerTimedOut
            | Self::CircuitOpen
            | Self::FaultInjected => Gravity::Fault,
        }
    }

    /// What to think of, where the code alone does not say it; `first` is what a peer without TLS began with.
    #[must_use]
    pub const fn hint(self, first: Option<FirstBytes>) -> Option<&'static str> {
        Some(match self {
            Self::PlaintextRefused => match first {
                Some(FirstBytes::Http) => {
                    "an HTTP client, such as a probe, a scraper or a browser, was given the remoting port; management has another"
                }
                Some(FirstBytes::Unknown) => {
                    "neither TLS nor remoting, so no peer without an agent: a scanner, or a client of something else"
                }
                _ => "the peer has no agent, or one in another mode; during a migration --mode permissive lets it in",
            },
            Self::Denied => {
                "if the peer belongs to the cluster, name it with --allow or give it our identity; where detail names its \
                 address, --peer-address has refused it"
            }
            Self::Revoked => "its certificate is on a list in --tls-crl; it needs another one",
            Self::Truncated => "the stream was cut without a TLS close; the other proxy may have been killed",
            Self::TlsBroken => "bytes were changed on the way, or the peer does not keep to TLS; detail says how",
            Self::RefusedByPeer => "the peer's log says why: our certificate may be unknown to it, or not allowed",
            Self::TooManyUnfinished => {
                "one address may have an eighth of --max-handshakes, and less while all are taken; see what it is doing"
            }
            Self::TooManyOfPeer => {
                "one pod may have --max-connections-per-peer; Akka and Pekko open two or three a direction"
            }
            Self::PeerTimedOut => "its node is gone, or its app took no bytes for longer than --peer-timeout",
            Self::CircuitOpen => "the last attempts failed, and the refusals before this one say why",
            Self::FaultInjected => "somebody ordered it through the admin port; /faults lists what is in force",
            Self::NoResources => "it says nothing of the peer; detail names what ran out",
            Self::AppUnreachable => "the app does not listen there: it is starting, stopping, or bound elsewhere",
            Self::Untrusted => "compare the peer's issuer with our roots: /status lists both",
            Self::NotRedirected => "somebody dialled the sidecar's own port; peers dial the app's remoting port",
            Self::NoDestination => "with --path ports the app dials through the preloaded library, which says where to",
            Self::Loop => "the original destination is the sidecar's own listener",
            Self::NotRemoting => "init and proxy must be given the same --remoting-port",
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_in_the_log_is_the_code_in_json() {
        for reason in [
            Reason::Closed,
            Reason::PeerTimedOut,
            Reason::RefusedByPeer,
            Reason::TooManyOfPeer,
            Reason::CircuitOpen,
            Reason::FaultInjected,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
        }
    }
}
