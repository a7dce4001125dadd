//! One table as a transaction, and as it stands in the kernel.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ExpressionAttribute, Expressions, Hook as HookAttribute, HookNumber, InetHookNumber,
    ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use nix::errno::Errno;

use crate::core::plan::NAT_PRIORITY;
use crate::core::render::nft;
use crate::core::ruleset::{Chain, ChainKind, Hook, Rule, Ruleset, TableFamily};
use crate::netfilter::socket::{NetfilterSocket, SetElement, Step, TransactionError};
use crate::netfilter::{NetfilterError, decode, encode, set};

/// `NF_ACCEPT` as a chain's policy.
const POLICY_ACCEPT: u32 = 1;
/// `NLM_F_NONREC` (linux/netlink.h): delete what is empty, refuse the rest.
const NLM_F_NONREC: u16 = 0x100;
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

/// Creates the tables, in one transaction; where one of the names is taken, replaces them: ensure, delete, create.
///
/// # Errors
/// See [`NetfilterError`]; nothing was changed then.
pub fn apply(rulesets: &[Ruleset]) -> Result<(), NetfilterError> {
    let transaction = |existing| {
        let mut transaction = Transaction::default();
        for ruleset in rulesets {
            transaction.create(ruleset, existing);
        }
        transact(transaction.steps, &transaction.names)
    };
    // The usual case is a new pod. A transaction that deletes makes whoever closes a socket to nf_tables next wait some
    // 10 ms, until the kernel has freed what is gone (net/netfilter/nf_tables_api.c, nft_rcv_nl_event).
    let start = Instant::now();
    let outcome = match transaction(Existing::Refuse) {
        Err(NetfilterError::Refused { rule: None, errno: Errno::EEXIST, .. }) => {
            for Ruleset { family, table, .. } in rulesets {
                if is_foreign(*family, table)? {
                    return Err(NetfilterError::Taken { family: *family, table: table.clone() });
                }
            }
            transaction(Existing::Replace)
        }
        other => other,
    };
    // What scripts/bench-init reads.
    tracing::debug!(microseconds = start.elapsed().as_micros(), "transaction over netlink");
    outcome
}

/// Whether somebody else made the table: it holds something, and none of it is a nat chain where every version of ours
/// has one and nobody else has. What is in the chains does not matter, as another version may have written it. A comment
/// on the table would say it better, but kernels before 5.10 do not keep one.
///
/// # Errors
/// See [`NetfilterError`].
pub fn is_foreign(family: TableFamily, table: &str) -> Result<bool, NetfilterError> {
    let socket = open()?;
    let request = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
    for (_, message) in dump(&socket, protocol(family), request)? {
        let NfTablesMessage::NewChain(chain) = message else { continue };
        let is_ours = |(of, chain): (String, Chain)| {
            of == table && (chain.kind, chain.priority) == (ChainKind::Nat, NAT_PRIORITY)
        };
        if decode_chain(&chain).is_some_and(is_ours) {
            return Ok(false);
        }
    }
    let request = NfTablesMessage::GetTable(TableMessage { attributes: vec![] });
    for (_, message) in dump(&socket, protocol(family), request)? {
        let NfTablesMessage::NewTable(found) = message else { continue };
        if found.attributes.contains(&TableAttribute::Name(table.to_owned())) {
            // Chains, sets, objects and flowtables all count (net/netfilter/nf_tables_api.c, nf_tables_fill_table_info).
            return Ok(!found.attributes.contains(&TableAttribute::Use(0)));
        }
    }
    Ok(false)
}

/// The kernel's numbers for the tables of this name: a table that is made anew has another one.
///
/// # Errors
/// See [`NetfilterError`].
pub(super) fn handles(table: &str) -> Result<Vec<u64>, NetfilterError> {
    let request = NfTablesMessage::GetTable(TableMessage { attributes: vec![] });
    let mut handles = Vec::new();
    for (_, message) in dump(&open()?, NetfilterProtoFamily::Unspec, request)? {
        let NfTablesMessage::NewTable(message) = message else { continue };
        if message.attributes.contains(&TableAttribute::Name(table.to_owned())) {
            handles.extend(message.attributes.iter().find_map(|attribute| match attribute {
                TableAttribute::Handle(handle) => Some(*handle),
                _ => None,
            }));
        }
    }
    Ok(handles)
}

/// What to do about a table of the name that is there already.
#[derive(Clone, Copy)]
enum Existing {
    Refuse,
    Replace,
}

/// Steps, and what each is called if it is refused.
#[derive(Default)]
struct Transaction<'a> {
    steps: Vec<Step>,
    names: Vec<(String, Option<&'a Rule>)>,
    sets: u32,
}

impl<'a> Transaction<'a> {
    fn push(&mut self, step: Step, name: String, rule: Option<&'a Rule>) {
        self.steps.push(step);
        self.names.push((name, rule));
    }

    fn create(&mut self, ruleset: &'a Ruleset, existing: Existing) {
        let (family, table) = (ruleset.family, ruleset.table.as_str());
        let name = |verb: &str| format!("`{verb} table {} {table}`", family.name());
        if let Existing::Replace = existing {
            self.push(new_table(family, table, 0), name("add"), None);
            self.push(delete_table(family, table), name("delete"), None);
        }
        self.push(new_table(family, table, NLM_F_EXCL), name("create"), None);
        for chain in &ruleset.chains {
            self.push(new_chain(family, table, chain), format!("chain {}", chain.name), None);
            for rule in &chain.rules {
                let name = format!("in chain {} the rule `{}`", chain.name, nft::render_rule(rule, family));
                self.sets += 1;
                if let Some(ports) = encode::port_set(rule) {
                    for step in set::new_set(protocol(family), table, self.sets, ports) {
                        self.push(step, format!("the set of ports of {name}"), None);
                    }
                }
                self.push(new_rule(family, table, &chain.name, rule, self.sets), name, Some(rule));
            }
        }
    }
}

/// Deletes the table; says whether there was one.
///
/// # Errors
/// See [`NetfilterError`].
pub fn delete(family: TableFamily, table: &str) -> Result<bool, NetfilterError> {
    let name = format!("`delete table {} {table}`", family.name());
    match transact(vec![delete_table(family, table)], &[(name, None)]) {
        Ok(()) => Ok(true),
        Err(NetfilterError::Refused { errno: Errno::ENOENT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a base chain of others that holds no rule, and its table if that holds no chain then: what an iptables tool
/// made for rules that are gone. The kernel refuses it, and that is no error, where anything is in use.
///
/// # Errors
/// See [`NetfilterError`].
pub(super) fn delete_if_empty(family: TableFamily, table: &str, chain: &str) -> Result<(), NetfilterError> {
    let attributes = vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(chain.to_owned())];
    let chain = step(protocol(family), NfTablesMessage::DeleteChain(ChainMessage { attributes }), NLM_F_NONREC);
    let attributes = vec![TableAttribute::Name(table.to_owned())];
    let whole = step(protocol(family), NfTablesMessage::DeleteTable(TableMessage { attributes }), NLM_F_NONREC);
    for step in [chain, whole] {
        match transact(vec![step], &[(format!("`delete table {} {table}`", family.name()), None)]) {
            Ok(()) => {}
            Err(NetfilterError::Refused { errno: Errno::EBUSY | Errno::ENOENT, .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The table as it stands, with each rule's count of packets; `None` if there is no such table.
///
/// # Errors
/// See [`NetfilterError`].
pub fn read(family: TableFamily, table: &str) -> Result<Option<Table>, NetfilterError> {
    let socket = open()?;
    let protocol = protocol(family);
    let chains = dump(&socket, protocol, NfTablesMessage::GetChain(ChainMessage { attributes: vec![] }))?;
    let mut base_chains: Vec<Chain> = Vec::new();
    for (_, message) in chains {
        let NfTablesMessage::NewChain(chain) = message else { continue };
        base_chains.extend(decode_chain(&chain).filter(|(of, _)| of == table).map(|(_, chain)| chain));
    }
    if base_chains.is_empty() {
        return Ok(None);
    }
    let filter = RuleMessage { attributes: vec![RuleAttribute::Table(table.to_owned())] };
    let messages = dump(&socket, protocol, NfTablesMessage::GetRule(filter))?;
    let views: Vec<RuleView> = messages.iter().filter_map(|(_, message)| RuleView::of(message)).collect();
    let lists: Vec<_> = views.iter().map(|view| view.expressions.clone()).collect();
    let sets = set::read(&socket, protocol, table, &lists)?;
    let mut rules: HashMap<&str, Vec<(Rule, u64)>> = HashMap::new();
    for view in views.into_iter().filter(|view| view.table == table) {
        let chain = rules.entry(view.chain).or_default();
        let (mut rule, packets) =
            decode::rule(&view.expressions, &sets).map_err(|expression| NetfilterError::Foreign {
                family,
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
    Ok(Some(Table { ruleset: Ruleset { family, table: table.to_owned(), chains }, packets }))
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
    socket.dump(family, request).map_err(unreadable)
}

/// The elements of a set.
pub(super) fn set_elements(
    socket: &NetfilterSocket,
    family: NetfilterProtoFamily,
    table: &str,
    set: &str,
) -> Result<Vec<SetElement>, NetfilterError> {
    socket.set_elements(family, table, set).map_err(unreadable)
}

fn unreadable(source: io::Error) -> NetfilterError {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno @ (Errno::EPERM | Errno::EACCES)) => NetfilterError::NotPermitted(errno),
        Some(errno @ Errno::EOPNOTSUPP) => NetfilterError::Unsupported(errno),
        _ => NetfilterError::Socket { attempted: "reading rules", source },
    }
}

fn new_table(family: TableFamily, name: &str, flags: u16) -> Step {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    step(protocol(family), NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE | flags)
}

fn delete_table(family: TableFamily, name: &str) -> Step {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    step(protocol(family), NfTablesMessage::DeleteTable(TableMessage { attributes }), 0)
}

fn new_chain(family: TableFamily, table: &str, chain: &Chain) -> Step {
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
    step(protocol(family), NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE)
}

const fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Nat => "nat",
        ChainKind::Filter => "filter",
    }
}

fn new_rule(family: TableFamily, table: &str, chain: &str, rule: &Rule, set: u32) -> Step {
    let expressions = encode::expressions(rule, set, family).into_iter().map(ListAttribute::from).collect();
    let text = rule.comment.as_bytes();
    let length = u8::try_from(text.len() + 1).expect("comments are at most 127 bytes");
    let comment = [&[COMMENT, length], text, &[0]].concat();
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions),
        RuleAttribute::UserData(comment),
    ];
    step(protocol(family), NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
}

pub(super) const fn step(family: NetfilterProtoFamily, message: NfTablesMessage, flags: u16) -> Step {
    Step { family, message, flags }
}

const fn protocol(family: TableFamily) -> NetfilterProtoFamily {
    match family {
        TableFamily::Inet => NetfilterProtoFamily::Inet,
        TableFamily::Ip => NetfilterProtoFamily::IPv4,
        TableFamily::Ip6 => NetfilterProtoFamily::IPv6,
    }
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
    pub(super) comment: String,
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
