//! TCP ports as users write them: one number, a range, or a list of both.
//!
//! Invariant: a [`PortSet`] is never empty, is sorted, and its ranges neither overlap nor touch.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Akka classic remoting, and what most manifests still use for Artery (Akka documentation, "Istio").
pub const DEFAULT_REMOTING_PORT: u16 = 2552;
/// Akka management (`akka.management.http.port` in its reference.conf).
pub const DEFAULT_MANAGEMENT_PORT: u16 = 8558;

/// The ports that a framework's reference.conf uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Akka as most manifests have it: remoting 2552, management 8558
    Akka,
    /// Akka with Artery's own default: remoting 25520, management 8558
    AkkaArtery,
    /// Pekko: remoting 17355, management 7626
    Pekko,
}

impl Preset {
    /// The remoting port and the management port.
    #[must_use]
    pub const fn ports(self) -> (u16, u16) {
        match self {
            Self::Akka => (DEFAULT_REMOTING_PORT, DEFAULT_MANAGEMENT_PORT),
            Self::AkkaArtery => (25520, DEFAULT_MANAGEMENT_PORT),
            Self::Pekko => (17355, 7626),
        }
    }
}

/// One port or one inclusive range of ports, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`, both included; `None` if that is none, or one is 0.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first { None } else { Some(Self { first, last }) }
    }

    /// A single port.
    #[must_use]
    pub const fn single(port: NonZeroU16) -> Self {
        Self { first: port.get(), last: port.get() }
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port, included.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    fn iter(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Why a text is no port list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortError {
    /// Not a number from 1 to 65535.
    #[error("{0:?} is not a port: a port is a number from 1 to 65535")]
    NotAPort(String),
    /// The range's end lies before its start.
    #[error("the range {0:?} ends before it starts; write the lower port first")]
    Backwards(String),
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let port = |part: &str| {
            let part = part.trim();
            part.parse::<NonZeroU16>().map_err(|_| PortError::NotAPort(part.to_owned()))
        };
        let Some((first, last)) = text.split_once('-') else { return Ok(Self::single(port(text)?)) };
        Self::new(port(first)?.get(), port(last)?.get()).ok_or_else(|| PortError::Backwards(text.trim().to_owned()))
    }
}

/// A set of ports that is not empty; as text, ranges with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    /// The set of these ranges, merged where they overlap or touch; `None` if there are none.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = PortRange>) -> Option<Self> {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last)
                }
                _ => merged.push(range),
            }
        }
        (!merged.is_empty()).then_some(Self(merged))
    }

    /// A set of one port.
    ///
    /// # Panics
    /// If the port is 0.
    #[must_use]
    pub fn single(port: u16) -> Self {
        Self(vec![PortRange::single(NonZeroU16::new(port).expect("port 0 cannot be listened on"))])
    }

    /// The merged ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Every port, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|range| range.iter())
    }

    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.iter().contains(&port))
    }

    /// The lowest port that both sets hold.
    #[must_use]
    pub fn first_shared(&self, other: &Self) -> Option<u16> {
        self.0
            .iter()
            .flat_map(|a| other.0.iter().map(move |b| (a.first.max(b.first), a.last.min(b.last))))
            .filter(|(first, last)| first <= last)
            .map(|(first, _)| first)
            .min()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

impl Serialize for PortSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ranges: Vec<PortRange> =
            text.split(',').map(str::parse).collect::<Result<_, _>>().map_err(D::Error::custom)?;
        Self::new(ranges).ok_or_else(|| D::Error::custom("no port is named"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> PortSet {
        PortSet::new(text.split(',').map(|range| range.parse().unwrap())).unwrap()
    }

    #[test]
    fn a_port_is_a_number_from_1_to_65535() {
        for bad in ["", "0", "65536", "-1", "http", "2552x", "1-", "0x10"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("65535".parse::<PortRange>().unwrap().last(), 65535);
    }

    #[test]
    fn a_range_runs_upwards() {
        assert_eq!("9-3".parse::<PortRange>(), Err(PortError::Backwards("9-3".to_owned())));
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        assert_eq!(set("2552,2554-2560,2553,8558,2555").to_string(), "2552-2560,8558");
        assert_eq!(set("65535,65534").to_string(), "65534-65535");
    }

    #[test]
    fn the_first_shared_port_is_found_whatever_the_order() {
        assert_eq!(set("10-20,30").first_shared(&set("25-40")), Some(30));
        assert_eq!(set("25-40").first_shared(&set("10-20,30")), Some(30));
        assert_eq!(set("1-5").first_shared(&set("6-9")), None);
    }

    #[test]
    fn no_range_means_no_set() {
        assert_eq!(PortSet::new([]), None);
    }
}
