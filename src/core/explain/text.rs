//! Rules as text, in a language close to nft's.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::core::explain::filters::{Condition, Field, MarkOf, Nat, Rule, SetMark, Statement, Step, Test, Tproxy};
use crate::core::ruleset::{Family, Side};

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        for (i, step) in self.steps.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            match step {
                Step::If(condition) => write!(f, "{space}{condition}")?,
                Step::Do(statement) => write!(f, "{space}{statement}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(test) => test.fmt(f),
            Self::Interface { side, name, prefix, negated } => {
                let key = if *side == Side::In { "iifname" } else { "oifname" };
                write!(f, "{key} {}\"{name}{}\"", not(*negated), if *prefix { "*" } else { "" })
            }
            Self::Unknown(name) => write!(f, "({name}?)"),
        }
    }
}

const fn not(negated: bool) -> &'static str {
    if negated { "!= " } else { "" }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field.name())?;
        let full = self.field.full_mask();
        if self.mask & full != full {
            write!(f, " & {}{}", self.field.masked(self.mask), if self.negated { "" } else { " ==" })?;
        }
        write!(f, " {}", not(self.negated))?;
        let range = |(first, last): &(u128, u128)| {
            let first_text = self.field.value(*first);
            match *last {
                last if last == *first => first_text,
                u128::MAX => format!(">= {first_text}"),
                last => format!("{first_text}-{}", self.field.value(last)),
            }
        };
        match self.ranges.as_slice() {
            [one] => f.write_str(&range(one)),
            many => write!(f, "{{ {} }}", many.iter().map(range).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Self::Family => "meta nfproto",
            Self::Protocol => "meta l4proto",
            Self::Source(Family::V4) => "ip saddr",
            Self::Source(Family::V6) => "ip6 saddr",
            Self::Destination(Family::V4) => "ip daddr",
            Self::Destination(Family::V6) => "ip6 daddr",
            Self::SourcePort => "sport",
            Self::DestinationPort => "dport",
            Self::TcpFlags => "tcp flags",
            Self::Mark => "mark",
            Self::ConnectionMark => "ct mark",
            Self::ConnectionState => "ct state",
            Self::Uid => "skuid",
            Self::Gid => "skgid",
            Self::DestinationType => "fib daddr type",
            Self::SourceType => "fib saddr type",
        }
    }

    /// All bits that the field has.
    #[must_use]
    pub const fn full_mask(self) -> u128 {
        match self {
            Self::Source(Family::V6) | Self::Destination(Family::V6) => u128::MAX,
            Self::Family | Self::Protocol | Self::TcpFlags => 0xff,
            Self::SourcePort | Self::DestinationPort => 0xffff,
            _ => u32::MAX as u128,
        }
    }

    fn masked(self, mask: u128) -> String {
        match self {
            Self::Source(_) | Self::Destination(_) => self.value(mask),
            _ => format!("{mask:#x}"),
        }
    }

    fn value(self, value: u128) -> String {
        let low = u32::try_from(value & u128::from(u32::MAX)).unwrap_or_default();
        match (self, low) {
            (Self::Source(Family::V4) | Self::Destination(Family::V4), _) => Ipv4Addr::from(low).to_string(),
            (Self::Source(Family::V6) | Self::Destination(Family::V6), _) => Ipv6Addr::from(value).to_string(),
            (Self::Family, 2) => "ipv4".to_owned(),
            (Self::Family, 10) => "ipv6".to_owned(),
            (Self::Protocol, 6) => "tcp".to_owned(),
            (Self::Protocol, 17) => "udp".to_owned(),
            (Self::DestinationType | Self::SourceType, 2) => "local".to_owned(),
            (Self::TcpFlags | Self::Mark | Self::ConnectionMark | Self::ConnectionState, _) => format!("{low:#x}"),
            _ => value.to_string(),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject => f.write_str("reject"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Nat(nat) => nat.fmt(f),
            Self::Tproxy(tproxy) => tproxy.fmt(f),
            Self::Mark(set) => set.fmt(f),
            Self::NoTrack => f.write_str("notrack"),
            Self::Unknown(name) => write!(f, "({name}?)"),
        }
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirect(Some(port)) => write!(f, "redirect to :{port}"),
            Self::Redirect(None) => f.write_str("redirect"),
            Self::Destination { address: None, port: None } => f.write_str("dnat to its own address"),
            Self::Destination { address, port } => {
                f.write_str("dnat to ")?;
                match address {
                    Some(address @ std::net::IpAddr::V6(_)) if port.is_some() => write!(f, "[{address}]")?,
                    Some(address) => write!(f, "{address}")?,
                    None => {}
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Source => f.write_str("snat"),
        }
    }
}

impl fmt::Display for Tproxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tproxy to ")?;
        if let Some(address) = self.address {
            write!(f, "{address}")?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for SetMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |mark: MarkOf| if mark == MarkOf::Packet { "mark" } else { "ct mark" };
        write!(f, "{} set ", name(self.target))?;
        match (self.keep, self.from) {
            (0, None) => write!(f, "{:#x}", self.xor),
            (0, Some((from, u32::MAX))) if self.xor == 0 => f.write_str(name(from)),
            (keep, from) => {
                write!(f, "{} & {keep:#x}", name(self.target))?;
                if let Some((from, bits)) = from {
                    write!(f, " ^ {} & {bits:#x}", name(from))?;
                }
                write!(f, " ^ {:#x}", self.xor)
            }
        }
    }
}
