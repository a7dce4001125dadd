//! What iptables-save prints, as tables. The kernel's x_tables can be read in no other way without linking to C.
//!
//! Invariant: an option that is not understood becomes an `Unknown` with its name.

use std::net::IpAddr;

use crate::core::explain::filters::{Base, Chain, Condition, Keeper, Kind, Rule, Statement, Step, Table};
use crate::core::explain::save::options::Reader;
use crate::core::ruleset::{Family, Hook};

mod options;

/// The tables in the output of iptables-legacy-save, or of ip6tables-legacy-save.
#[must_use]
pub fn tables(text: &str, family: Family) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table {
                keeper: Keeper::Legacy,
                family: Some(family),
                name: name.to_owned(),
                chains: Vec::new(),
            });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (name, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let base = base(&table.name, name, policy == "DROP");
            table.chains.push(Chain { name: name.to_owned(), base, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (name, options) = rule.split_once(' ').unwrap_or((rule, ""));
            let rule = rule_of(options, family, &table.chains);
            if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == name) {
                chain.rules.push(rule);
            }
        }
    }
    tables
}

/// Where x_tables calls its built-in chains (linux/netfilter_ipv4.h, `NF_IP_PRI_*`; net/ipv4/netfilter/iptable_*.c).
fn base(table: &str, chain: &str, drops: bool) -> Option<Base> {
    let hook = match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    };
    let source = matches!(hook, Hook::Input | Hook::Postrouting);
    let (kind, priority) = match table {
        "raw" => (Kind::Filter, -300),
        "mangle" if hook == Hook::Output => (Kind::Route, -150),
        "mangle" => (Kind::Filter, -150),
        "nat" => (Kind::Nat, if source { 100 } else { -100 }),
        "security" => (Kind::Filter, 50),
        _ => (Kind::Filter, 0),
    };
    Some(Base { kind, hook, priority, drops })
}

fn rule_of(line: &str, family: Family, chains: &[Chain]) -> Rule {
    let is_chain = |target: &str| chains.iter().any(|chain| chain.name == target);
    let mut reader = Reader::new(family);
    let words = words(line);
    let mut rest = words.as_slice();
    let mut comment = String::new();
    while let Some((word, tail)) = rest.split_first() {
        rest = tail;
        if word == "!" {
            reader.negated = true;
            continue;
        }
        let end = rest.iter().position(|word| word == "!" || word.starts_with('-')).unwrap_or(rest.len());
        let (mut values, tail) = rest.split_at(end);
        rest = tail;
        if word == "--comment" && values.is_empty() {
            // Text that begins with a dash.
            (values, rest) = rest.split_at(rest.len().min(1));
        }
        match (word.as_str(), values.first()) {
            ("--comment", text) => comment = text.cloned().unwrap_or_default(),
            ("-j", Some(target)) if is_chain(target) => reader.does(Statement::Jump(target.clone())),
            ("-g", Some(target)) => reader.does(Statement::Goto(target.clone())),
            ("-j", Some(target)) => reader.target(target),
            (option, _) => reader.option(option, values),
        }
        reader.negated = false;
    }
    Rule { steps: reader.steps(), comment, text: Some(line.to_owned()) }
}

/// Words at white space, those in double quotes whole.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    let mut started = false;
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                started = true;
            }
            c if c.is_whitespace() && !quoted => {
                if started || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            c => word.push(c),
        }
    }
    if started || !word.is_empty() {
        words.push(word);
    }
    words
}

/// An address with a prefix length or a mask, as its value and its mask.
fn network(text: &str) -> Option<(u128, u128)> {
    let (address, mask) = text.split_once('/').unwrap_or((text, ""));
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let address: IpAddr = address.parse().ok()?;
    let (bits, full) = if address.is_ipv4() { (32, u128::from(u32::MAX)) } else { (128, u128::MAX) };
    let mask = match mask {
        "" => full,
        mask => match mask.parse::<u32>() {
            Ok(0) => 0,
            Ok(length) if length <= bits => (full << (bits - length)) & full,
            Ok(_) => return None,
            Err(_) => number(mask.parse().ok()?),
        },
    };
    Some((number(address) & mask, mask))
}

const fn condition(condition: Condition) -> Step {
    Step::If(condition)
}
