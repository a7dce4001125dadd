//! What happens to one connection: where it goes, and with or without TLS.
//!
//! Invariant: in strict mode no answer is [`Route::Passthrough`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::core::outcome::Reason;
use crate::core::ports::PortSet;
use crate::core::wire::FirstBytes;

/// What to do with peers that do not speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Only mutual TLS, both ways
    Strict,
    /// TLS where the peer speaks it, plaintext where not; for a migration
    Permissive,
    /// No TLS: plaintext both ways, for a first rollout or to find a fault
    Disabled,
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Disabled => "disabled",
        })
    }
}

/// How connections come to the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TrafficPath {
    /// The rules of `bypassctl init` redirect them
    #[default]
    Rules,
    /// No rules: the sidecar listens on the pod's address and the app on loopback; the app dials through a preloaded library
    Ports,
}

impl fmt::Display for TrafficPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rules => "rules",
            Self::Ports => "ports",
        })
    }
}

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// A peer dialled the app.
    Inbound,
    /// The app dialled a peer.
    Outbound,
}

impl Direction {
    /// `inbound` or `outbound`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Plaintext, unchanged.
    Passthrough,
    /// We are the TLS client; with `or_plaintext`, a peer that shows that it speaks no TLS gets plaintext.
    OriginateTls {
        /// Permissive mode.
        or_plaintext: bool,
    },
    /// We are the TLS server.
    TerminateTls,
    /// Not at all.
    Reject(Reason),
}

/// The route of a connection that the app dials; `speaks_plaintext` if the peer lately showed that it speaks no TLS.
#[must_use]
pub const fn outbound(mode: TlsMode, speaks_plaintext: bool) -> Route {
    match (mode, speaks_plaintext) {
        (TlsMode::Strict, _) => Route::OriginateTls { or_plaintext: false },
        (TlsMode::Permissive, false) => Route::OriginateTls { or_plaintext: true },
        (TlsMode::Permissive, true) | (TlsMode::Disabled, _) => Route::Passthrough,
    }
}

/// The route of a connection that arrives, by what the peer sent first.
#[must_use]
pub const fn inbound(mode: TlsMode, first: FirstBytes) -> Route {
    match (mode, first) {
        (TlsMode::Disabled, _) => Route::Passthrough,
        (_, FirstBytes::Tls) => Route::TerminateTls,
        (_, FirstBytes::Nothing) => Route::Reject(Reason::PeerSilent),
        (TlsMode::Permissive, _) => Route::Passthrough,
        (TlsMode::Strict, _) => Route::Reject(Reason::PlaintextRefused),
    }
}

/// What the kernel says about where a connection was going before the rules sent it to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginalDst {
    /// There.
    Known(SocketAddr),
    /// The connection was not redirected.
    NotRedirected,
}

/// Where to dial: the fixed target, or the original destination if it makes sense.
///
/// # Errors
/// [`Reason::NotRedirected`]; [`Reason::Loop`] if the original destination is the listener itself, `listener` being the
/// address that the connection was accepted on; [`Reason::NotRemoting`] if the port is none of `remoting`.
pub fn target(
    original: OriginalDst,
    listener: SocketAddr,
    fixed: Option<SocketAddr>,
    remoting: &PortSet,
) -> Result<SocketAddr, Reason> {
    let leads_back =
        |to: SocketAddr| to.port() == listener.port() && (to.ip() == listener.ip() || to.ip().is_loopback());
    // Which addresses are the pod's own is known only once a connection arrives on one.
    if let Some(fixed) = fixed {
        return if leads_back(fixed) { Err(Reason::Loop) } else { Ok(fixed) };
    }
    let OriginalDst::Known(original) = original else { return Err(Reason::NotRedirected) };
    if leads_back(original) {
        return Err(Reason::Loop);
    }
    if !remoting.contains(original.port()) {
        return Err(Reason::NotRemoting);
    }
    Ok(original)
}

/// Where the app listens for what arrives at its port on the pod's address, where no rules redirect it: the fixed target, or
/// the same port on loopback.
///
/// # Errors
/// [`Reason::Loop`] if the fixed target is the listener itself.
pub fn on_loopback(listener: SocketAddr, fixed: Option<SocketAddr>) -> Result<SocketAddr, Reason> {
    match fixed {
        Some(fixed) if fixed == listener => Err(Reason::Loop),
        Some(fixed) => Ok(fixed),
        None => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, listener.port()))),
    }
}

/// Whether an address means "every address of this host".
#[must_use]
pub const fn is_this_host(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::wire::ArteryMagic;

    const ARTERY: FirstBytes = FirstBytes::Artery { magic: ArteryMagic::Akka, stream: Some(1) };

    #[test]
    fn strict_passes_no_plaintext_whatever_is_known_about_the_peer() {
        for speaks_plaintext in [false, true] {
            assert_eq!(outbound(TlsMode::Strict, speaks_plaintext), Route::OriginateTls { or_plaintext: false });
        }
        for first in [ARTERY, FirstBytes::Classic, FirstBytes::Http, FirstBytes::Unknown] {
            assert_eq!(inbound(TlsMode::Strict, first), Route::Reject(Reason::PlaintextRefused));
        }
    }

    #[test]
    fn permissive_takes_both_but_not_silence() {
        assert_eq!(inbound(TlsMode::Permissive, FirstBytes::Tls), Route::TerminateTls);
        assert_eq!(inbound(TlsMode::Permissive, ARTERY), Route::Passthrough);
        assert_eq!(inbound(TlsMode::Permissive, FirstBytes::Nothing), Route::Reject(Reason::PeerSilent));
        assert_eq!(outbound(TlsMode::Permissive, false), Route::OriginateTls { or_plaintext: true });
        assert_eq!(outbound(TlsMode::Permissive, true), Route::Passthrough);
    }

    #[test]
    fn what_arrives_on_the_pods_address_is_the_apps_on_loopback() {
        let listener = "[fd00::1]:2552".parse().unwrap();
        assert_eq!(on_loopback(listener, None), Ok("127.0.0.1:2552".parse().unwrap()));
        let elsewhere = "127.0.0.1:25520".parse().unwrap();
        assert_eq!(on_loopback(listener, Some(elsewhere)), Ok(elsewhere));
        assert_eq!(on_loopback(listener, Some(listener)), Err(Reason::Loop));
    }

    #[test]
    fn the_original_destination_counts_unless_it_is_ourselves_or_no_remoting() {
        let listener = "10.0.0.1:15553".parse().unwrap();
        let remoting = PortSet::single(2552);
        let known = |text: &str| OriginalDst::Known(text.parse().unwrap());
        let target = |original, fixed| target(original, listener, fixed, &remoting);
        assert_eq!(target(known("10.0.0.1:2552"), None), Ok("10.0.0.1:2552".parse().unwrap()));
        assert_eq!(target(known("10.0.0.1:15553"), None), Err(Reason::Loop));
        assert_eq!(target(known("127.0.0.1:15553"), None), Err(Reason::Loop));
        assert_eq!(target(known("10.0.0.1:8080"), None), Err(Reason::NotRemoting));
        assert_eq!(target(OriginalDst::NotRedirected, None), Err(Reason::NotRedirected));
        let fixed = "192.0.2.7:1".parse().unwrap();
        assert_eq!(target(OriginalDst::NotRedirected, Some(fixed)), Ok(fixed));
    }
}
