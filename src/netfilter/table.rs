//! One table as a transaction, and as it stands in the kernel.

use std::collections::HashMap;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ExpressionAttribute, Expressions, Hook as HookAttribute, HookNumber, InetHookNumber,
    ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use nix::errno::Errno;

use crate::core::render::nft;
use crate::core::ruleset::{Chain, ChainKind, Hook, Rule, Ruleset};
use crate::netfilter::socket::{NetfilterSocket, Step, TransactionError};
use crate::netfilter::{NetfilterError, decode, encode, set};

/// `NF_ACCEPT` as a chain's policy.
const POLICY_ACCEPT: u32 = 1;
/// `NFTNL_UDATA_RULE_COMMENT` (libnftnl): the rule comment that nft shows.
const COMMENT: u8 = 0;

/// A table as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its chains and rules.
    pub ruleset: Ruleset,
    /// Packets that each rule has matched, by chain and rule.
    pub packets: Vec<Vec<u64>>,
}

/// Replaces the table with the ruleset, in one transaction: ensure, delete, create.
///
/// # Errors
/// See [`NetfilterError`]; nothing was changed then.
pub fn apply(ruleset: &Ruleset) -> Result<(), NetfilterError> {
    let mut steps = Vec::new();
    let mut names: Vec<(String, Option<&Rule>)> = Vec::new();
    let table = |verb: &str| format!("`{verb} table inet {}`", ruleset.table);
    let mut set_id = 0;
    let mut push = |step: Step, name: String, rule| {
        steps.push(step);
        names.push((name, rule));
    };
    push(new_table(&ruleset.table), table("add"), None);
    push(delete_table(&ruleset.table), table("delete"), None);
    push(new_table(&ruleset.table), table("add"), None);
    for chain in &ruleset.chains {
        push(new_chain(&ruleset.table, chain), format!("chain {}", chain.name), None);
        for rule in &chain.rules {
            let name = format!("in chain {} the rule `{}`", chain.name, nft::render_rule(rule));
            set_id += 1;
            for step in
                encode::port_set(rule).map(|ports| set::new_set(&ruleset.table, set_id, ports)).into_iter().flatten()
            {
                push(step, format!("the set of ports of {name}"), None);
            }
            push(new_rule(&ruleset.table, &chain.name, rule, set_id), name, Some(rule));
        }
    }
    transact(steps, &names)
}

/// Deletes the table; says whether there was one.
///
/// # Errors
/// See [`NetfilterError`].
pub fn delete(table: &str) -> Result<bool, NetfilterError> {
    match transact(vec![delete_table(table)], &[(format!("`delete table inet {table}`"), None)]) {
        Ok(()) => Ok(true),
        Err(NetfilterError::Refused { errno: Errno::ENOENT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The table as it stands, with each rule's count of packets; `None` if there is no such table.
///
/// # Errors
/// See [`NetfilterError`].
pub fn read(table: &str) -> Result<Option<Table>, NetfilterError> {
    let socket = open()?;
    let inet = NetfilterProtoFamily::Inet;
    let chains = dump(&socket, inet, NfTablesMessage::GetChain(ChainMessage { attributes: vec![] }))?;
    let mut base_chains: Vec<Chain> = Vec::new();
    for (_, message) in chains {
        let NfTablesMessage::NewChain(chain) = message else { continue };
        base_chains.extend(decode_chain(&chain).filter(|(of, _)| of == table).map(|(_, chain)| chain));
    }
    if base_chains.is_empty() {
        return Ok(None);
    }
    let filter = RuleMessage { attributes: vec![RuleAttribute::Table(table.to_owned())] };
    let messages = dump(&socket, inet, NfTablesMessage::GetRule(filter))?;
    let views: Vec<RuleView> = messages.iter().filter_map(|(_, message)| RuleView::of(message)).collect();
    let lists: Vec<_> = views.iter().map(|view| view.expressions.clone()).collect();
    let sets = set::read(&socket, table, &lists)?;
    let mut rules: HashMap<&str, Vec<(Rule, u64)>> = HashMap::new();
    for view in views.into_iter().filter(|view| view.table == table) {
        let chain = rules.entry(view.chain).or_default();
        let (mut rule, packets) =
            decode::rule(&view.expressions, &sets).map_err(|expression| NetfilterError::Foreign {
                table: table.to_owned(),
                chain: view.chain.to_owned(),
                number: chain.len() + 1,
                expression,
            })?;
        rule.comment = view.comment;
        chain.push((rule, packets));
    }
    let mut chains = Vec::new();
    let mut packets = Vec::new();
    for mut chain in base_chains {
        let (found, counts): (Vec<_>, Vec<_>) =
            rules.remove(chain.name.as_str()).unwrap_or_default().into_iter().unzip();
        chain.rules = found;
        chains.push(chain);
        packets.push(counts);
    }
    Ok(Some(Table { ruleset: Ruleset { table: table.to_owned(), chains }, packets }))
}

fn transact(steps: Vec<Step>, names: &[(String, Option<&Rule>)]) -> Result<(), NetfilterError> {
    open()?.transaction(steps).map_err(|error| match error {
        TransactionError::Socket(source) => NetfilterError::Socket { attempted: "a transaction", source },
        TransactionError::Refused(errno) | TransactionError::RefusedStep(_, errno @ (Errno::EPERM | Errno::EACCES)) => {
            refused(errno, "the transaction".to_owned(), None)
        }
        TransactionError::RefusedStep(index, errno) => {
            let (name, rule) = &names[index];
            refused(errno, name.clone(), rule.cloned())
        }
    })
}

fn refused(errno: Errno, step: String, rule: Option<Rule>) -> NetfilterError {
    match errno {
        Errno::EPERM | Errno::EACCES => NetfilterError::NotPermitted(errno),
        // No rule yet: the subsystem, the family or the chain type itself is missing.
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOSYS | Errno::EINVAL if rule.is_none() => {
            NetfilterError::Unsupported(errno)
        }
        Errno::ENOENT if rule.is_none() && step.starts_with("chain") => NetfilterError::Unsupported(errno),
        _ => NetfilterError::Refused { step, rule: rule.map(Box::new), errno },
    }
}

pub(super) fn open() -> Result<NetfilterSocket, NetfilterError> {
    NetfilterSocket::open().map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(errno @ (Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT)) => NetfilterError::Unsupported(errno),
        _ => NetfilterError::Socket { attempted: "opening a socket", source },
    })
}

pub(super) fn dump(
    socket: &NetfilterSocket,
    family: NetfilterProtoFamily,
    request: NfTablesMessage,
) -> Result<Vec<(NetfilterProtoFamily, NfTablesMessage)>, NetfilterError> {
    socket.dump(family, request).map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(errno @ (Errno::EPERM | Errno::EACCES)) => NetfilterError::NotPermitted(errno),
        Some(errno @ Errno::EOPNOTSUPP) => NetfilterError::Unsupported(errno),
        _ => NetfilterError::Socket { attempted: "reading rules", source },
    })
}

fn new_table(name: &str) -> Step {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    step(NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE)
}

fn delete_table(name: &str) -> Step {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    step(NfTablesMessage::DeleteTable(TableMessage { attributes }), 0)
}

fn new_chain(table: &str, chain: &Chain) -> Step {
    let number = match chain.hook {
        Hook::Prerouting => InetHookNumber::PreRouting,
        Hook::Input => InetHookNumber::LocalIn,
        Hook::Output => InetHookNumber::LocalOut,
        Hook::Postrouting => InetHookNumber::PostRouting,
    };
    let attributes = vec![
        ChainAttribute::Table(table.to_owned()),
        ChainAttribute::Name(chain.name.clone()),
        ChainAttribute::Hook(vec![
            HookAttribute::Number(HookNumber::Inet(number)),
            HookAttribute::Priority(chain.priority.cast_unsigned()),
        ]),
        ChainAttribute::Policy(POLICY_ACCEPT),
        ChainAttribute::Type(kind_name(chain.kind).to_owned()),
    ];
    step(NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE)
}

const fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Nat => "nat",
        ChainKind::Filter => "filter",
    }
}

fn new_rule(table: &str, chain: &str, rule: &Rule, set: u32) -> Step {
    let expressions = encode::expressions(rule, set).into_iter().map(ListAttribute::from).collect();
    let text = rule.comment.as_bytes();
    let length = u8::try_from(text.len() + 1).expect("comments are at most 127 bytes");
    let comment = [&[COMMENT, length], text, &[0]].concat();
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions),
        RuleAttribute::UserData(comment),
    ];
    step(NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
}

pub(super) const fn step(message: NfTablesMessage, flags: u16) -> Step {
    Step { family: NetfilterProtoFamily::Inet, message, flags }
}

/// A base chain without its rules, and its table.
pub(super) fn decode_chain(message: &ChainMessage) -> Option<(String, Chain)> {
    let (mut table, mut name, mut kind, mut hook, mut priority) = ("", "", "", None, 0);
    for attribute in &message.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = text,
            ChainAttribute::Name(text) => name = text,
            ChainAttribute::Type(text) => kind = text,
            ChainAttribute::Hook(hooks) => {
                for attribute in hooks {
                    match attribute {
                        HookAttribute::Number(number) => hook = Some(*number),
                        HookAttribute::Priority(value) => priority = value.cast_signed(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let hook = match hook? {
        HookNumber::Inet(InetHookNumber::PreRouting) => Hook::Prerouting,
        HookNumber::Inet(InetHookNumber::LocalIn) => Hook::Input,
        HookNumber::Inet(InetHookNumber::LocalOut) => Hook::Output,
        HookNumber::Inet(InetHookNumber::PostRouting) => Hook::Postrouting,
        _ => return None,
    };
    let kind = match kind {
        "nat" => ChainKind::Nat,
        "filter" => ChainKind::Filter,
        _ => return None,
    };
    Some((table.to_owned(), Chain { name: name.to_owned(), kind, hook, priority, rules: Vec::new() }))
}

/// What of a rule message matters here.
pub(super) struct RuleView<'a> {
    pub(super) table: &'a str,
    pub(super) chain: &'a str,
    pub(super) expressions: Vec<Expressions>,
    comment: String,
}

impl<'a> RuleView<'a> {
    /// The view of a rule; `None` for any other message.
    pub(super) fn of(message: &'a NfTablesMessage) -> Option<Self> {
        let NfTablesMessage::NewRule(message) = message else { return None };
        let mut view = Self { table: "", chain: "", expressions: Vec::new(), comment: String::new() };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Table(name) => view.table = name,
                RuleAttribute::Chain(name) => view.chain = name,
                RuleAttribute::Expressions(list) => view.expressions = list.iter().filter_map(expression).collect(),
                RuleAttribute::UserData(data) => view.comment = comment(data),
                _ => {}
            }
        }
        Some(view)
    }
}

fn expression(element: &ListAttribute<ExpressionAttribute>) -> Option<Expressions> {
    let ListAttribute::Element(attributes) = element else { return None };
    let data = attributes.iter().find_map(|attribute| match attribute {
        ExpressionAttribute::Data(expression) => Some(expression.clone()),
        _ => None,
    });
    data.or_else(|| {
        // An expression without attributes (notrack) has a name and nothing else.
        attributes.iter().find_map(|attribute| match attribute {
            ExpressionAttribute::Name(name) => {
                Some(Expressions::Other { expression_type: name.clone(), attributes: Vec::new() })
            }
            _ => None,
        })
    })
}

/// The comment among a rule's user data: a list of type, length, value.
fn comment(data: &[u8]) -> String {
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let Some((value, tail)) = tail.split_at_checked(usize::from(*length)) else { break };
        if *kind == COMMENT {
            return String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        }
        rest = tail;
    }
    String::new()
}
