//! What stands while the probes are under way: the link, and a table of the proof's own.

use crate::core::backend::{Backend, Variant};
use crate::core::ports::PortSet;
use crate::core::ruleset::{Action, Chain, ChainKind, Family, Hook, Match, Rule, Ruleset, Side, TableFamily};
use crate::core::xtables::{XtChain, XtRule, XtTable, built_in};
use crate::netfilter::proof::{Direction, Expected, ProofError, Subject, link};
use crate::netfilter::{self, NetfilterError, iptables};

/// The table that stands while probes are under way.
const PROOF_TABLE: &str = "bypassctl-proof";
/// The same for iptables: what its chains' names begin with.
const PROOF_PREFIX: &str = "BYPASSCTL-PROOF_";
/// `NF_IP_PRI_RAW`: before conntrack.
const RAW_PRIORITY: i32 = -300;
/// After every NAT of output (`NF_IP_PRI_NAT_SRC` and later), so that the destination is final.
const LAST_PRIORITY: i32 = 300;

/// Why it cannot stand.
pub(super) enum ScaffoldError {
    Rules(ProofError),
    /// The kernel cannot make the link, for this reason.
    Link(String),
}

/// The link and the proof's own rules, while they stand.
pub(super) struct Scaffold {
    backend: Backend,
    counted: Vec<(Family, u16)>,
    /// Families that the link cannot carry, with the reason.
    pub(super) without: Vec<(Family, String)>,
}

impl Scaffold {
    /// By the same backend as the rules: a node may have no other.
    pub(super) fn build(backend: Backend, families: &[Family], subjects: &[Subject]) -> Result<Self, ScaffoldError> {
        let counted: Vec<(Family, u16)> = subjects
            .iter()
            .filter(|subject| (subject.direction, subject.expected) == (Direction::Outbound, Expected::Straight))
            .map(|subject| (subject.family, subject.port))
            .collect();
        let made = with_handle(|handle| async move { link::make(&handle, families).await });
        let mut scaffold = Self { backend, counted, without: Vec::new() };
        let without = made
            .map_err(|error| ScaffoldError::Link(format!("this kernel cannot make a temporary veth link: {error}")))?;
        scaffold.without = without.into_iter().map(|(family, error)| (family, error.to_string())).collect();
        match backend {
            Backend::Nft => netfilter::apply(&[scaffold.table()]).map_err(ProofError::from),
            Backend::Iptables(variant) => {
                let applied = iptables::apply(variant, PROOF_PREFIX, |family| scaffold.chains(family));
                applied.map(drop).map_err(ProofError::from)
            }
        }
        .map_err(ScaffoldError::Rules)?;
        Ok(scaffold)
    }

    fn table(&self) -> Ruleset {
        let chain = |name: &str, hook, priority, rules| Chain {
            name: name.to_owned(),
            kind: ChainKind::Filter,
            hook,
            priority,
            rules,
        };
        let leaving = self.counted.iter().map(|(family, port)| leaving(*family, *port)).collect();
        let chains = vec![
            chain("near_out", Hook::Output, RAW_PRIORITY, vec![untracked(Side::Out)]),
            chain("near_in", Hook::Prerouting, RAW_PRIORITY, vec![untracked(Side::In)]),
            chain("leaving", Hook::Postrouting, LAST_PRIORITY, leaving),
        ];
        Ruleset { family: TableFamily::Inet, table: PROOF_TABLE.to_owned(), chains }
    }

    fn chains(&self, family: Family) -> Vec<XtChain> {
        let chain = |table, hook, rules: Vec<Rule>| XtChain {
            table,
            hook,
            prefix: PROOF_PREFIX,
            rules: rules.into_iter().map(XtRule::asking).collect(),
        };
        let leaving = self.counted_in(family).map(|port| leaving(family, port)).collect();
        vec![
            chain(XtTable::Raw, Hook::Output, vec![untracked(Side::Out)]),
            chain(XtTable::Raw, Hook::Prerouting, vec![untracked(Side::In)]),
            chain(XtTable::Mangle, Hook::Postrouting, leaving),
        ]
    }

    fn counted_in(&self, family: Family) -> impl Iterator<Item = u16> {
        self.counted.iter().filter(move |(of, _)| *of == family).map(|(_, port)| *port)
    }

    /// Which outgoing probes left the pod's stack with their destination unchanged.
    pub(super) fn passed_straight(&self) -> Result<Vec<(Family, u16)>, ProofError> {
        let Backend::Iptables(variant) = self.backend else {
            let table = netfilter::read(TableFamily::Inet, PROOF_TABLE)?;
            let packets = table.and_then(|table| table.packets.last().cloned()).unwrap_or_default();
            let seen = self.counted.iter().zip(packets).filter(|(_, packets)| *packets > 0);
            return Ok(seen.map(|(subject, _)| *subject).collect());
        };
        let mut passed = Vec::new();
        let chain = format!("{PROOF_PREFIX}{}", built_in(Hook::Postrouting));
        for family in Family::BOTH.into_iter().filter(|family| self.counted_in(*family).next().is_some()) {
            let packets = iptables::packets(variant, family, &chain)?;
            let seen = self.counted_in(family).zip(packets).filter(|(_, packets)| *packets > 0);
            passed.extend(seen.map(|(port, _)| (family, port)));
        }
        Ok(passed)
    }
}

fn untracked(side: Side) -> Rule {
    let near = Match::Interface(side, link::NEAR.to_owned());
    Rule::new([near], Action::NoTrack, "the far end must meet it anew")
}

fn leaving(family: Family, port: u16) -> Rule {
    let canary = [
        Match::ToLoopback(false),
        Match::Destination { network: link::canary(family), prefix_len: full_prefix(family) },
    ];
    Rule::tcp(&PortSet::single(port), &canary, Action::Drop, "left as it was made")
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        if let Err(error) = remove() {
            tracing::error!("the proof's traces could not be removed ({error}); `bypassctl init --cleanup` does it");
        }
    }
}

/// Removes the proof's rules, whichever backend has them, and the link.
pub(super) fn remove() -> Result<(), ProofError> {
    match netfilter::delete(TableFamily::Inet, PROOF_TABLE) {
        Ok(_) | Err(NetfilterError::Unsupported(_)) => {}
        Err(error) => return Err(error.into()),
    }
    for variant in Variant::BOTH {
        iptables::remove(variant, PROOF_PREFIX)?;
    }
    with_handle(|handle| async move { link::remove(&handle).await }).map_err(|error| {
        ProofError::from(NetfilterError::Socket {
            attempted: "removing the temporary link",
            source: std::io::Error::other(error),
        })
    })
}

const fn full_prefix(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// Runs requests to rtnetlink on a runtime of their own, on this thread and so in its namespace.
fn with_handle<T, F>(work: impl FnOnce(rtnetlink::Handle) -> F) -> Result<T, rtnetlink::Error>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let failed = |error: std::io::Error| rtnetlink::Error::NamespaceError(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        let driver = tokio::spawn(connection);
        let result = work(handle).await;
        driver.abort();
        result
    })
}
