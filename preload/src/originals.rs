//! Where connections were going, by their local port: what getpeername() tells.
//!
//! A port is one connection's among those with the sidecar's listener of a family, so nobody has to take out what has
//! ended: the next connection of that port overwrites it. Pages that no port of is used stay unmapped.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::Address;

struct Slot([AtomicU64; 3]);

impl Slot {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; 3])
    }
}

static V4: [Slot; 65536] = [const { Slot::empty() }; 65536];
static V6: [Slot; 65536] = [const { Slot::empty() }; 65536];

fn slot(local: &Address) -> Option<&'static Slot> {
    let table = if local.as_v4().is_some() { &V4 } else { &V6 };
    table.get(usize::from(local.port))
}

/// Remembers where the connection from this local address was going.
pub(crate) fn remember(local: &Address, original: &Address) {
    let Some(Slot([high, low, rest])) = slot(local) else { return };
    let ip = u128::from_be_bytes(original.ip);
    high.store((ip >> 64) as u64, Ordering::Relaxed);
    low.store(ip as u64, Ordering::Relaxed);
    rest.store(u64::from(original.scope) << 16 | u64::from(original.port), Ordering::Release);
}

/// Where it was going; `None` if it is none of ours.
pub(crate) fn original(local: &Address) -> Option<Address> {
    let Slot([high, low, rest]) = slot(local)?;
    let rest = rest.load(Ordering::Acquire);
    let ip = u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed));
    let address = Address { ip: ip.to_be_bytes(), port: rest as u16, scope: (rest >> 16) as u32 };
    (address.port != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_ports_of_their_own() {
        let local = |ip: [u8; 16]| Address { ip, port: 40_000, scope: 0 };
        let v4 = local([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1]);
        let v6 = local([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let original_v4 = Address { ip: [9; 16], port: 2552, scope: 0 };
        let original_v6 = Address { ip: [7; 16], port: 25520, scope: 3 };
        assert_eq!(original(&v4), None);
        remember(&v4, &original_v4);
        assert_eq!(original(&v6), None);
        remember(&v6, &original_v6);
        assert_eq!((original(&v4), original(&v6)), (Some(original_v4), Some(original_v6)));
    }
}
