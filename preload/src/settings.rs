//! What the environment says: read at the first connection, when every C library has set it up.
//!
//! Invariant: with settings that make no sense every port counts as a remoting port: nothing gets out in plaintext because
//! of a typing error.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

/// Remoting ports: numbers and ranges, separated by commas.
const PORTS: &[u8] = b"BYPASSCTL_SHIM_PORTS=";
/// The sidecar's port.
const AGENT_PORT: &[u8] = b"BYPASSCTL_SHIM_AGENT_PORT=";
const DEFAULT_PORTS: &[u8] = b"2552";
const DEFAULT_AGENT_PORT: u16 = 15552;

const UNREAD: u8 = 0;
const GOOD: u8 = 1;
const BAD: u8 = 2;

/// A bit a port.
struct PortBits([AtomicU64; 1024]);

impl PortBits {
    const fn none() -> Self {
        Self([const { AtomicU64::new(0) }; 1024])
    }

    fn add(&self, port: u16) {
        if let Some(word) = self.0.get(usize::from(port / 64)) {
            word.fetch_or(1 << (port % 64), Ordering::Relaxed);
        }
    }

    fn contains(&self, port: u16) -> bool {
        self.0.get(usize::from(port / 64)).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (port % 64)) != 0)
    }

    /// Adds what the list names; whether it is a list of ports.
    fn add_all(&self, list: &[u8]) -> bool {
        list.split(|byte| *byte == b',').all(|item| {
            let mut ends = item.splitn(2, |byte| *byte == b'-').map(port);
            let (Some(Some(first)), last) = (ends.next(), ends.next()) else { return false };
            let Some(last) = last.unwrap_or(Some(first)) else { return false };
            (first..=last).for_each(|port| self.add(port));
            first <= last
        })
    }
}

static REMOTING: PortBits = PortBits::none();
static AGENT: AtomicU16 = AtomicU16::new(DEFAULT_AGENT_PORT);
static STATE: AtomicU8 = AtomicU8::new(UNREAD);

/// 1 to 65535, with blanks around it.
fn port(digits: &[u8]) -> Option<u16> {
    let digits = digits.trim_ascii();
    let number = digits.iter().try_fold(0_u32, |number, digit| match digit {
        b'0'..=b'9' if number <= 65535 => Some(number * 10 + u32::from(digit - b'0')),
        _ => None,
    })?;
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// What Kubernetes sets in every pod of a namespace that has a Service named `bypassctl-shim-agent`: it is nobody's wish.
fn is_service_link(value: &[u8]) -> bool {
    [&b"tcp://"[..], b"udp://", b"sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

/// Whether a port is a remoting port, and the settings could be read.
pub(crate) fn is_remoting(port: u16) -> bool {
    !are_good() || REMOTING.contains(port)
}

/// The sidecar's port.
pub(crate) fn agent_port() -> u16 {
    AGENT.load(Ordering::Relaxed)
}

/// Whether the settings make sense; says once what does not. Threads that read them at the same time read the same.
pub(crate) fn are_good() -> bool {
    match STATE.load(Ordering::Acquire) {
        UNREAD => {}
        state => return state == GOOD,
    }
    let ports = variable(PORTS).unwrap_or(DEFAULT_PORTS);
    let agent = variable(AGENT_PORT).filter(|value| !is_service_link(value)).map_or(Some(DEFAULT_AGENT_PORT), port);
    let is_list = REMOTING.add_all(ports);
    if let Some(agent) = agent {
        AGENT.store(agent, Ordering::Relaxed);
    }
    let good = is_list && agent.is_some();
    let first_time = STATE.swap(if good { GOOD } else { BAD }, Ordering::Release) == UNREAD;
    if !good && first_time {
        let what: &[u8] =
            if is_list { b"BYPASSCTL_SHIM_AGENT_PORT is no port" } else { b"BYPASSCTL_SHIM_PORTS is no list of ports" };
        crate::system::complain(&[what, b" (1 to 65535): every connection to elsewhere is refused"]);
    }
    good
}

fn variable(name: &[u8]) -> Option<&'static [u8]> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: environ(7): an array of strings with a null pointer behind it, or no array. Whoever changes it at the same time
    // has the same to fear of getenv(3).
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            if let Some(value) = CStr::from_ptr(*entry).to_bytes().strip_prefix(name) {
                return Some(value);
            }
            entry = entry.add(1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ports_and_ranges_are_read_and_nothing_else() {
        let bits = PortBits::none();
        assert!(bits.add_all(b"2552, 25520-25522,65535"));
        let of: Vec<u16> = (0..=65535).filter(|port| bits.contains(*port)).collect();
        assert_eq!(of, [2552, 25520, 25521, 25522, 65535]);
        for bad in
            [&b""[..], b"0", b"65536", b"99999999999999", b"http", b"1-", b"-1", b"5-3", b"1,,2", b"1-2-3", b"0x10"]
        {
            assert!(!PortBits::none().add_all(bad), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn what_a_service_is_called_decides_nothing() {
        for link in [&b"tcp://10.96.0.7:15552"[..], b"udp://10.96.0.7:53", b"sctp://[fd00::7]:3868"] {
            assert!(is_service_link(link), "{}", link.escape_ascii());
        }
        assert!(!is_service_link(b"15552") && !is_service_link(b"tcp:15552") && !is_service_link(b""));
    }

    #[test]
    fn without_variables_the_ports_are_those_that_the_sidecar_has_too() {
        assert!(is_remoting(2552) && !is_remoting(8558) && agent_port() == 15552);
    }
}
