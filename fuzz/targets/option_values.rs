//! Values of options, one a line: ports, identities, orders for a fault. What parses prints as something that parses to the
//! same.
#![no_main]

use bypassctl::core::faults::Order;
use bypassctl::core::identity::{Allow, SpiffeId};
use bypassctl::core::ports::{PortRange, PortSet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut ranges = Vec::new();
    for line in text.lines() {
        if let Ok(range) = line.parse::<PortRange>() {
            assert_eq!(range.to_string().parse(), Ok(range));
            ranges.push(range);
        }
        if let Ok(id) = line.parse::<SpiffeId>() {
            assert_eq!(id.to_string(), line);
        }
        if let Ok(allow) = line.parse::<Allow>() {
            assert_eq!(allow.to_string().parse(), Ok(allow));
        }
        if let Ok(order) = serde_json::from_str::<Order>(line) {
            let _ = order.at(std::time::Instant::now()).map(|fault| fault.to_string());
        }
    }
    let asked = ranges.clone();
    if let Some(set) = PortSet::new(ranges) {
        let again = PortSet::new(set.to_string().split(',').map(|range| range.parse().expect("a range")));
        assert_eq!(again.as_ref(), Some(&set));
        assert!(asked.iter().all(|range| set.contains(range.first()) && set.contains(range.last())));
    }
});
