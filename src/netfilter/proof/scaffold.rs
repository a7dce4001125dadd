//! What stands while the probes are under way: the link, and a table of the proof's own.

use crate::core::ports::PortSet;
use crate::core::ruleset::{Action, Chain, ChainKind, Family, Hook, Match, Rule, Ruleset, Side};
use crate::netfilter::proof::{Direction, Expected, Subject, link};
use crate::netfilter::{self, NetfilterError};

/// The table that stands while probes are under way.
const PROOF_TABLE: &str = "bypassctl-proof";
/// `NF_IP_PRI_RAW`: before conntrack.
const RAW_PRIORITY: i32 = -300;
/// After every NAT of output (`NF_IP_PRI_NAT_SRC` and later), so that the destination is final.
const LAST_PRIORITY: i32 = 300;

/// Why it cannot stand.
pub(super) enum ScaffoldError {
    Netfilter(NetfilterError),
    /// The kernel cannot make the link, for this reason.
    Link(String),
}

/// The link and the proof's own table, while they stand.
pub(super) struct Scaffold {
    counted: Vec<(Family, u16)>,
    /// Families that the link cannot carry, with the reason.
    pub(super) without: Vec<(Family, String)>,
}

impl Scaffold {
    pub(super) fn build(families: &[Family], subjects: &[Subject]) -> Result<Self, ScaffoldError> {
        let counted: Vec<(Family, u16)> = subjects
            .iter()
            .filter(|subject| (subject.direction, subject.expected) == (Direction::Outbound, Expected::Straight))
            .map(|subject| (subject.family, subject.port))
            .collect();
        let made = with_handle(|handle| async move { link::make(&handle, families).await });
        let mut scaffold = Self { counted, without: Vec::new() };
        let without = made
            .map_err(|error| ScaffoldError::Link(format!("this kernel cannot make a temporary veth link: {error}")))?;
        scaffold.without = without.into_iter().map(|(family, error)| (family, error.to_string())).collect();
        netfilter::apply(&scaffold.rules()).map_err(ScaffoldError::Netfilter)?;
        Ok(scaffold)
    }

    fn rules(&self) -> Ruleset {
        let near = |side| Match::Interface(side, link::NEAR.to_owned());
        let untracked = |name: &str, hook, side| Chain {
            name: name.to_owned(),
            kind: ChainKind::Filter,
            hook,
            priority: RAW_PRIORITY,
            rules: vec![Rule::new([near(side)], Action::NoTrack, "the far end must meet it anew")],
        };
        let mut leaving: Vec<Rule> = Vec::new();
        for (family, port) in &self.counted {
            let canary = [
                Match::ToLoopback(false),
                Match::Destination { network: link::canary(*family), prefix_len: full_prefix(*family) },
            ];
            leaving.push(Rule::tcp(&PortSet::single(*port), &canary, Action::Drop, "left as it was made"));
        }
        let counting = Chain {
            name: "leaving".to_owned(),
            kind: ChainKind::Filter,
            hook: Hook::Postrouting,
            priority: LAST_PRIORITY,
            rules: leaving,
        };
        let chains = vec![
            untracked("near_out", Hook::Output, Side::Out),
            untracked("near_in", Hook::Prerouting, Side::In),
            counting,
        ];
        Ruleset { table: PROOF_TABLE.to_owned(), chains }
    }

    /// Which outgoing probes left the pod's stack with their destination unchanged.
    pub(super) fn passed_straight(&self) -> Result<Vec<(Family, u16)>, NetfilterError> {
        let packets = netfilter::read(PROOF_TABLE)?.and_then(|table| table.packets.last().cloned()).unwrap_or_default();
        let seen = self.counted.iter().zip(packets).filter(|(_, packets)| *packets > 0);
        Ok(seen.map(|(subject, _)| *subject).collect())
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        if let Err(error) = remove() {
            tracing::error!("the proof's traces could not be removed ({error}); `bypassctl init --cleanup` does it");
        }
    }
}

pub(super) fn remove() -> Result<(), NetfilterError> {
    netfilter::delete(PROOF_TABLE)?;
    with_handle(|handle| async move { link::remove(&handle).await }).map_err(|error| NetfilterError::Socket {
        attempted: "removing the temporary link",
        source: std::io::Error::other(error),
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
