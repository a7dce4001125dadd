//! A [`Ruleset`] in the language of `nft -f`.
//!
//! The text replaces the table as a whole: "ensure, delete, create", as the netlink transaction does where there is one.

use std::fmt::Write as _;

use crate::core::ruleset::{Action, Chain, ChainKind, Family, Hook, Match, Rule, Ruleset, Side, TableFamily};

/// The text of a script that `nft -f` takes, ending in a newline.
#[must_use]
pub fn render(ruleset: &Ruleset) -> String {
    let table = format!("table {} {}", ruleset.family.name(), ruleset.table);
    let mut text = format!("{table}\ndelete {table}\n{table} {{\n");
    for (i, chain) in ruleset.chains.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        render_chain(&mut text, chain, ruleset.family);
    }
    text.push_str("}\n");
    text
}

fn render_chain(text: &mut String, chain: &Chain, family: TableFamily) {
    let kind = match chain.kind {
        ChainKind::Nat => "nat",
        ChainKind::Filter => "filter",
    };
    let hook = match chain.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    };
    let _ = writeln!(text, "\tchain {} {{", chain.name);
    let _ = writeln!(text, "\t\ttype {kind} hook {hook} priority {}; policy accept;", chain.priority);
    for rule in &chain.rules {
        let _ = writeln!(text, "\t\t{}", render_rule(rule, family));
    }
    text.push_str("\t}\n");
}

/// One rule, as it stands inside a chain of a table of the family.
#[must_use]
pub fn render_rule(rule: &Rule, family: TableFamily) -> String {
    let mut words: Vec<String> = Vec::new();
    if let (Action::NullBinding(family), TableFamily::Inet) = (&rule.action, family) {
        words.push(format!("meta nfproto {}", nfproto(*family)));
    }
    let mut l4proto = "th";
    for condition in &rule.matches {
        match condition {
            Match::Family(family) => words.push(format!("meta nfproto {}", nfproto(*family))),
            Match::Tcp => {
                l4proto = "tcp";
                words.push("meta l4proto tcp".to_owned());
            }
            Match::Udp => {
                l4proto = "udp";
                words.push("meta l4proto udp".to_owned());
            }
            Match::DestinationPort(ports) => {
                let ranges: Vec<String> = ports.ranges().iter().map(ToString::to_string).collect();
                let list = ranges.join(", ");
                let list = if ranges.len() == 1 { list } else { format!("{{ {list} }}") };
                words.push(format!("{l4proto} dport {list}"));
            }
            Match::Syn => words.push("tcp flags & (fin | syn | rst | ack) == syn".to_owned()),
            Match::SocketUid(uid) => words.push(format!("meta skuid {uid}")),
            Match::FromLoopback(yes) => words.push(format!("iifname {}\"lo\"", negation(*yes))),
            Match::ToLoopback(yes) => words.push(format!("oifname {}\"lo\"", negation(*yes))),
            Match::Interface(Side::In, name) => words.push(format!("iifname \"{name}\"")),
            Match::Interface(Side::Out, name) => words.push(format!("oifname \"{name}\"")),
            Match::DestinationIsLocal => words.push("fib daddr type local".to_owned()),
            Match::Destination { network, prefix_len } => {
                let keyword = if network.is_ipv4() { "ip" } else { "ip6" };
                let full = if network.is_ipv4() { 32 } else { 128 };
                let prefix = if *prefix_len == full { String::new() } else { format!("/{prefix_len}") };
                words.push(format!("{keyword} daddr {network}{prefix}"));
            }
            Match::Mark { value, mask: u32::MAX } => words.push(format!("meta mark {value:#x}")),
            Match::Mark { value, mask } => words.push(format!("meta mark & {mask:#x} == {value:#x}")),
        }
    }
    words.push("counter".to_owned());
    words.push(match (&rule.action, family) {
        (Action::NullBinding(Family::V4), TableFamily::Inet) => "dnat ip to ip daddr".to_owned(),
        (Action::NullBinding(Family::V6), TableFamily::Inet) => "dnat ip6 to ip6 daddr".to_owned(),
        (Action::NullBinding(Family::V4), _) => "dnat to ip daddr".to_owned(),
        (Action::NullBinding(Family::V6), _) => "dnat to ip6 daddr".to_owned(),
        (Action::RejectPortUnreachable, TableFamily::Ip) => "reject with icmp port-unreachable".to_owned(),
        (Action::RejectPortUnreachable, TableFamily::Ip6) => "reject with icmpv6 port-unreachable".to_owned(),
        (Action::Redirect(port), _) => format!("redirect to :{port}"),
        (Action::RejectWithReset, _) => "reject with tcp reset".to_owned(),
        (Action::RejectPortUnreachable, _) => "reject with icmpx port-unreachable".to_owned(),
        (Action::Drop, _) => "drop".to_owned(),
        (Action::SetMark(mark), _) => format!("meta mark set {mark:#x}"),
        (Action::ClearMarks, _) => "meta mark set 0x0 ct mark set 0x0".to_owned(),
        (Action::Accept, _) => "accept".to_owned(),
        (Action::NoTrack, _) => "notrack".to_owned(),
    });
    words.push(format!("comment \"{}\"", rule.comment));
    words.join(" ")
}

const fn nfproto(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

const fn negation(holds: bool) -> &'static str {
    if holds { "" } else { "!= " }
}
