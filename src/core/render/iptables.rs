//! Chains in the language of `iptables-restore`, as `iptables-save` would print them.
//!
//! A [`Holding`] is what stands, or is to stand, of our chains in one family; [`script`] leads from one to the other.
//! Everything that is not ours stays unnamed in it.

use std::fmt::Write as _;

use crate::core::ports::{PortRange, PortSet};
use crate::core::ruleset::{Action, Family, Match, Rule, Side};
use crate::core::xtables::{XtChain, XtRule, XtTable, built_in};

/// Slots of the multiport match (`XT_MULTI_PORTS`); a range takes two.
const MULTIPORT_SLOTS: usize = 15;

/// What an iptables table holds of ours, in the words of `iptables-save`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTable {
    /// The table's name.
    pub name: String,
    /// Our chains.
    pub chains: Vec<String>,
    /// Rules of built-in chains that jump to ours, without `-A`: the built-in chain's name comes first.
    pub jumps: Vec<String>,
    /// Rules of our chains, without `-A`.
    pub rules: Vec<String>,
}

/// What the tables of one family hold of ours; tables that hold nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Its tables.
    pub tables: Vec<HeldTable>,
}

impl Holding {
    /// What these chains are in this family.
    #[must_use]
    pub fn of(chains: &[XtChain], family: Family) -> Self {
        let mut tables = Vec::new();
        for table in XtTable::ALL {
            let mut held =
                HeldTable { name: table.name().to_owned(), chains: Vec::new(), jumps: Vec::new(), rules: Vec::new() };
            for chain in chains.iter().filter(|chain| chain.table == table && !chain.rules.is_empty()) {
                let name = chain.name();
                held.jumps.push(format!("{} -j {name}", built_in(chain.hook)));
                for rule in &chain.rules {
                    held.rules.extend(render_rule(rule, family).into_iter().map(|words| format!("{name} {words}")));
                }
                held.chains.push(name);
            }
            if !held.chains.is_empty() {
                tables.push(held);
            }
        }
        Self { tables }
    }

    /// What of our chains, those whose names begin with `prefix`, the text of `iptables-save` shows; counters are passed
    /// over, and so are [`foreign_chains`].
    #[must_use]
    pub fn parse(saved: &str, prefix: &str) -> Self {
        let mut tables = named(saved, prefix);
        for table in &mut tables {
            let of = |rule: &String| rule.split(' ').next().unwrap_or_default().to_owned();
            let foreign: Vec<String> = table.chains.iter().filter(|chain| is_foreign(table, chain)).cloned().collect();
            table.chains.retain(|chain| !foreign.contains(chain));
            table.rules.retain(|rule| !foreign.contains(&of(rule)));
            table.jumps.retain(|jump| jump.rsplit(' ').next().is_some_and(|to| table.chains.iter().any(|c| c == to)));
        }
        tables.retain(|table| !table.chains.is_empty());
        Self { tables }
    }

    /// Whether the table has the chain.
    #[must_use]
    pub fn has_chain(&self, table: &str, chain: &str) -> bool {
        self.table(table).is_some_and(|table| table.chains.iter().any(|other| other == chain))
    }

    /// Whether there is nothing of ours.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many rules our chains have.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.tables.iter().map(|table| table.rules.len()).sum()
    }

    fn table(&self, name: &str) -> Option<&HeldTable> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// Chains, each after its table, that are named like ours and are somebody else's: every rule of ours has a comment, and
/// none in there has.
#[must_use]
pub fn foreign_chains(saved: &str, prefix: &str) -> Vec<(String, String)> {
    let of_table = |table: &HeldTable| -> Vec<_> {
        let foreign = table.chains.iter().filter(|chain| is_foreign(table, chain));
        foreign.map(|chain| (table.name.clone(), chain.clone())).collect()
    };
    named(saved, prefix).iter().flat_map(of_table).collect()
}

fn is_foreign(table: &HeldTable, chain: &str) -> bool {
    let mut rules = table.rules.iter().filter(|rule| rule.split(' ').next() == Some(chain)).peekable();
    rules.peek().is_some() && rules.all(|rule| !rule.contains("-m comment --comment "))
}

/// Chains whose names begin with `prefix`, and jumps to such, by table.
fn named(saved: &str, prefix: &str) -> Vec<HeldTable> {
    let mut tables: Vec<HeldTable> = Vec::new();
    let jump = format!(" -j {prefix}");
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let name = name.to_owned();
            tables.push(HeldTable { name, chains: Vec::new(), jumps: Vec::new(), rules: Vec::new() });
        }
        let Some(table) = tables.last_mut() else { continue };
        let rule = line.split_once("-A ").filter(|(before, _)| before.is_empty() || before.starts_with('['));
        if let Some(chain) = line.strip_prefix(':').filter(|chain| chain.starts_with(prefix)) {
            table.chains.extend(chain.split(' ').next().map(str::to_owned));
        } else if let Some((_, rule)) = rule {
            if rule.starts_with(prefix) {
                table.rules.push(rule.to_owned());
            } else if rule.contains(&jump) {
                table.jumps.push(rule.to_owned());
            }
        }
    }
    tables
}

/// The script for `iptables-restore --noflush` that leads from what stands to what is wanted. Declaring a chain makes it
/// or empties it; each table is one commit.
#[must_use]
pub fn script(standing: &Holding, wanted: &Holding) -> String {
    let gone = standing.tables.iter().filter(|table| wanted.table(&table.name).is_none());
    let names = wanted.tables.iter().chain(gone).map(|table| table.name.as_str());
    let mut text = String::new();
    for name in names {
        render_table(&mut text, name, standing.table(name), wanted.table(name));
    }
    text
}

fn render_table(text: &mut String, name: &str, standing: Option<&HeldTable>, wanted: Option<&HeldTable>) {
    let _ = writeln!(text, "*{name}");
    let chains = |table: Option<&HeldTable>| table.map(|table| table.chains.clone()).unwrap_or_default();
    let wanted_chains = chains(wanted);
    let obsolete: Vec<_> = chains(standing).into_iter().filter(|chain| !wanted_chains.contains(chain)).collect();
    for chain in wanted_chains.iter().chain(&obsolete) {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for jump in standing.iter().flat_map(|table| &table.jumps) {
        let _ = writeln!(text, "-D {jump}");
    }
    for jump in wanted.iter().flat_map(|table| &table.jumps) {
        let (built_in, rest) = jump.split_once(' ').unwrap_or((jump, ""));
        let _ = writeln!(text, "-I {built_in} 1 {rest}");
    }
    for rule in wanted.iter().flat_map(|table| &table.rules) {
        let _ = writeln!(text, "-A {rule}");
    }
    for chain in obsolete {
        let _ = writeln!(text, "-X {chain}");
    }
    text.push_str("COMMIT\n");
}

/// The rule's words after its chain's name: several rules where a list of ports is long, or a protocol must be named.
fn render_rule(rule: &XtRule, family: Family) -> Vec<String> {
    let XtRule { rule, answers } = rule;
    let ports = rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(ports) => Some(ports),
        _ => None,
    });
    let named = rule.matches.iter().find_map(|condition| match condition {
        Match::Tcp => Some("tcp"),
        Match::Udp => Some("udp"),
        _ => None,
    });
    let protocols = match (named, &rule.action) {
        (Some(protocol), _) => vec![protocol],
        // A port-only DNAT is refused without a protocol that has ports.
        (None, Action::NullBinding(_)) => vec!["tcp", "udp"],
        (None, _) => vec![""],
    };
    let mut rendered = Vec::new();
    for protocol in protocols {
        match ports {
            None => rendered.push(words(rule, family, protocol, None)),
            Some(ports) => {
                let lists = port_matches(protocol, ports, *answers).into_iter();
                rendered.extend(lists.map(|list| words(rule, family, protocol, Some(&list))));
            }
        }
    }
    rendered
}

/// In the order in which `iptables-save` prints them: addresses, interfaces, protocol, matches, target.
fn words(rule: &Rule, family: Family, protocol: &str, ports: Option<&str>) -> String {
    let mut addresses = Vec::new();
    let mut matches = Vec::new();
    for condition in &rule.matches {
        match condition {
            Match::Destination { network, prefix_len } => addresses.push(format!("-d {network}/{prefix_len}")),
            Match::FromLoopback(true) => addresses.push("-i lo".to_owned()),
            Match::FromLoopback(false) => addresses.push("! -i lo".to_owned()),
            Match::ToLoopback(true) => addresses.push("-o lo".to_owned()),
            Match::ToLoopback(false) => addresses.push("! -o lo".to_owned()),
            Match::Interface(Side::In, name) => addresses.push(format!("-i {name}")),
            Match::Interface(Side::Out, name) => addresses.push(format!("-o {name}")),
            // Of one match with the port, where that is a match of tcp.
            Match::Syn if ports.is_some_and(|list| list.starts_with("-m tcp")) => {
                matches.insert(0, "--tcp-flags FIN,SYN,RST,ACK SYN".to_owned());
            }
            Match::Syn => matches.push("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN".to_owned()),
            Match::SocketUid(uid) => matches.push(format!("-m owner --uid-owner {uid}")),
            Match::DestinationIsLocal => matches.push("-m addrtype --dst-type LOCAL".to_owned()),
            Match::Mark { value, mask: u32::MAX } => matches.push(format!("-m mark --mark {value:#x}")),
            Match::Mark { value, mask } => matches.push(format!("-m mark --mark {value:#x}/{mask:#x}")),
            Match::Family(_) | Match::Tcp | Match::Udp | Match::DestinationPort(_) => {}
        }
    }
    let mut words = addresses;
    if !protocol.is_empty() {
        words.push(format!("-p {protocol}"));
    }
    words.extend(ports.map(str::to_owned));
    words.extend(matches);
    // As iptables quotes (libxtables, `xtables_save_string`).
    words.push(format!("-m comment --comment \"{}\"", rule.comment.replace('\'', "\\'")));
    words.push(match &rule.action {
        // To any port in a range that holds them all, so to the one that it has; the address is left as it is.
        Action::NullBinding(_) => "-j DNAT --to-destination :1-65535".to_owned(),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Action::RejectWithReset => "-j REJECT --reject-with tcp-reset".to_owned(),
        Action::RejectPortUnreachable if family == Family::V4 => {
            "-j REJECT --reject-with icmp-port-unreachable".to_owned()
        }
        Action::RejectPortUnreachable => "-j REJECT --reject-with icmp6-port-unreachable".to_owned(),
        Action::Drop => "-j DROP".to_owned(),
        Action::SetMark(mark) => format!("-j MARK --set-xmark {mark:#x}/0xffffffff"),
        Action::ClearMarks => "-j MARK --set-xmark 0x0/0xffffffff".to_owned(),
        Action::Accept => "-j ACCEPT".to_owned(),
        Action::NoTrack => "-j CT --notrack".to_owned(),
    });
    words.join(" ")
}

fn port_matches(protocol: &str, ports: &PortSet, answers: bool) -> Vec<String> {
    let side = if answers { 's' } else { 'd' };
    if let [range] = ports.ranges() {
        return vec![format!("-m {protocol} --{side}port {}", port_range(*range))];
    }
    let mut lists: Vec<(usize, Vec<String>)> = Vec::new();
    for range in ports.ranges() {
        let slots = if range.first() == range.last() { 1 } else { 2 };
        match lists.last_mut() {
            Some((used, list)) if *used + slots <= MULTIPORT_SLOTS => {
                *used += slots;
                list.push(port_range(*range));
            }
            _ => lists.push((slots, vec![port_range(*range)])),
        }
    }
    lists.into_iter().map(|(_, list)| format!("-m multiport --{side}ports {}", list.join(","))).collect()
}

fn port_range(range: PortRange) -> String {
    if range.first() == range.last() {
        range.first().to_string()
    } else {
        format!("{}:{}", range.first(), range.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [12:720]
:BYPASSCTL_OUTPUT - [0:0]
:ISTIO_OUTPUT - [0:0]
[1:60] -A OUTPUT -j BYPASSCTL_OUTPUT
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -j BYPASSCTL_OUTPUT
-A BYPASSCTL_OUTPUT -m comment --comment \"old\" -j ACCEPT
-A ISTIO_OUTPUT -m comment --comment \"see -A BYPASSCTL_X\" -j RETURN
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
COMMIT
";

    #[test]
    fn of_a_dump_only_what_is_ours_is_seen() {
        let holding = Holding::parse(SAVED, "BYPASSCTL_");
        let [nat] = holding.tables.as_slice() else { panic!("{holding:?}") };
        assert_eq!(nat.chains, ["BYPASSCTL_OUTPUT"]);
        assert_eq!(nat.jumps, ["OUTPUT -j BYPASSCTL_OUTPUT", "OUTPUT -j BYPASSCTL_OUTPUT"]);
        assert_eq!(nat.rules.len(), 1);
    }

    #[test]
    fn what_stood_is_taken_away_in_the_script_that_puts_anew() {
        let standing = Holding::parse(SAVED, "BYPASSCTL_");
        let removal = "*nat\n:BYPASSCTL_OUTPUT - [0:0]\n-D OUTPUT -j BYPASSCTL_OUTPUT\n-D OUTPUT -j BYPASSCTL_OUTPUT\n-X \
                       BYPASSCTL_OUTPUT\nCOMMIT\n";
        assert_eq!(script(&standing, &Holding::default()), removal);
        let again = script(&standing, &standing);
        assert!(again.contains("-D OUTPUT -j BYPASSCTL_OUTPUT\n-I OUTPUT 1 -j BYPASSCTL_OUTPUT\n"), "{again}");
        assert!(!again.contains("-X"), "{again}");
    }

    #[test]
    fn a_list_of_ports_takes_as_many_rules_as_multiport_needs() {
        let ranges = (0..10).map(|i| PortRange::new(3000 + 10 * i, 3001 + 10 * i).unwrap());
        let lists = port_matches("tcp", &PortSet::new(ranges).unwrap(), false);
        let slots = lists.iter().map(|list| list.matches([',', ':']).count() + 1);
        assert_eq!(slots.collect::<Vec<_>>(), [14, 6]);
        assert_eq!(port_matches("udp", &PortSet::single(53), true), ["-m udp --sport 53"]);
    }
}
