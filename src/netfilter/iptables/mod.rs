//! Rules by the iptables tools: our chains of one variant, in both families.
//!
//! Invariant: both families hold what was asked for, or both what they held before. A script commits table by table, so
//! whatever fails in the midst is led back to the dump that was taken first.

mod tool;

use std::collections::BTreeSet;
use std::fs;

use crate::core::backend::Variant;
use crate::core::render::iptables::{HeldTable, Holding, foreign_chains, script};
use crate::core::ruleset::{Family, TableFamily};
use crate::core::xtables::{CHAIN_PREFIX, XtChain};
use crate::netfilter::foreign::{NamedChain, iptables_chains, nat_chains_up_to};
use crate::netfilter::{NetfilterError, mesh, namespace, table};

pub use self::tool::IptablesError;

/// Stands in a chain of ours whose built-in chain was not there before, so that it goes with ours.
const MARKER: &str = "-m comment --comment \"the built-in chain was made for this one\"";
/// A table that changed between dump and script makes the script fail; then it is looked at again.
const ATTEMPTS: usize = 3;

/// The priority of the nat tables' chains that change destinations (`NF_IP_PRI_NAT_DST`).
const NAT_PRIORITY: i32 = -100;

/// What one variant holds of ours, by family; families without anything are there too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The variant.
    pub variant: Variant,
    /// What its families hold.
    pub families: Vec<(Family, Holding)>,
}

impl Held {
    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.families.iter().all(|(_, holding)| holding.is_empty())
    }

    /// What is not there as written: a chain, a jump to it, or a rule, told by its comment; tools differ in the words that
    /// they print for the rest.
    #[must_use]
    pub fn difference(&self, found: Option<&Self>) -> Option<String> {
        self.families.iter().find_map(|(family, wanted)| {
            let found = found.and_then(|found| found.families.iter().find(|(other, _)| other == family));
            let found = found.map(|(_, holding)| outline(holding)).unwrap_or_default();
            let missing = outline(wanted).into_iter().find(|line| !found.contains(line));
            let more = || found.iter().find(|line| !outline(wanted).contains(line)).cloned();
            let missing = missing.or_else(more);
            missing.map(|(place, what)| format!("{} {place}: {what}", family.name()))
        })
    }

    /// How many rules it is.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.families.iter().map(|(_, holding)| holding.rule_count()).sum()
    }
}

/// Puts these chains in, in place of what the families hold of the prefix; what they held before.
///
/// A family that this pod has not may fail.
///
/// # Errors
/// See [`IptablesError`]; nothing was changed then.
pub(super) fn apply(
    variant: Variant,
    prefix: &'static str,
    chains: impl Fn(Family) -> Vec<XtChain>,
) -> Result<Held, IptablesError> {
    let mut applied: Vec<(Family, Holding)> = Vec::new();
    let mut before = Held { variant, families: Vec::new() };
    for family in Family::BOTH {
        let wanted = Holding::of(&chains(family), family);
        match lead_to(variant, family, prefix, &wanted) {
            Ok((was, is)) => {
                before.families.push((family, was));
                applied.push((family, is));
            }
            Err(error) if !namespace::has_family(family) => {
                tracing::warn!("no rules for {}, which this pod has not: {error}", family.name());
            }
            Err(error) => {
                put_back(&before, prefix);
                return Err(error);
            }
        }
    }
    Ok(Held { variant, families: applied })
}

/// Leads the families back to what they held.
///
/// # Errors
/// See [`IptablesError`]; the families before the one that failed are led back.
pub fn restore(before: &Held) -> Result<(), IptablesError> {
    restore_prefix(before, CHAIN_PREFIX)
}

fn restore_prefix(before: &Held, prefix: &'static str) -> Result<(), IptablesError> {
    for (family, holding) in &before.families {
        lead_to(before.variant, *family, prefix, holding)?;
    }
    Ok(())
}

fn put_back(before: &Held, prefix: &'static str) {
    if let Err(error) = restore_prefix(before, prefix) {
        tracing::error!(
            "what stood before could not be put back ({error}); `bypassctl init --cleanup` removes the rest"
        );
    }
}

/// Removes the chains of the prefix from both families.
///
/// # Errors
/// See [`IptablesError`]; where one family fails, the other's are removed all the same.
pub(super) fn remove(variant: Variant, prefix: &'static str) -> Result<(), IptablesError> {
    let Some(held) = held(variant, prefix)? else { return Ok(()) };
    let mut outcome = Ok(());
    for (family, _) in held.families.iter().filter(|(_, holding)| !holding.is_empty()) {
        outcome = outcome.and(lead_to(variant, *family, prefix, &Holding::default()).map(drop));
    }
    outcome
}

/// What the variant holds of ours, if it can hold anything: looked at only where its tables are there.
///
/// # Errors
/// See [`IptablesError`].
pub fn held(variant: Variant, prefix: &'static str) -> Result<Option<Held>, IptablesError> {
    let mut families = Vec::new();
    for family in Family::BOTH {
        if !may_hold(variant, family, prefix) {
            continue;
        }
        let saved = match tool::save(variant, family) {
            Ok(saved) => saved,
            // Tables that no tool of this image can read were not filled by it.
            Err(IptablesError::Missing(_)) if variant == Variant::Legacy => continue,
            Err(error) => return Err(error),
        };
        for (table, chain) in foreign_chains(&saved, prefix) {
            tracing::warn!(
                "chain {chain} of {}'s table {table} is left alone: bypassctl did not make it",
                family.name()
            );
        }
        families.push((family, Holding::parse(&saved, prefix)));
    }
    Ok((!families.is_empty()).then_some(Held { variant, families }))
}

/// User ids that nat rules of legacy iptables exempt: those of mesh proxies.
#[must_use]
pub fn legacy_mesh_uids() -> BTreeSet<u32> {
    let saved = Family::BOTH.into_iter().filter(|family| legacy_tables(*family));
    let saved = saved.filter_map(|family| tool::save(Variant::Legacy, family).ok());
    saved.flat_map(|dump| mesh::saved_uids(&dump)).collect()
}

/// Chains, jumps and rules by table and chain, the rules told by their comments.
pub(super) fn outline(holding: &Holding) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for table in &holding.tables {
        let place = |chain: &str| format!("table {}, chain {chain}", table.name);
        lines.extend(table.chains.iter().map(|chain| (place(chain), "the chain".to_owned())));
        for rule in table.jumps.iter().chain(&table.rules) {
            let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
            lines.push((place(chain), format!("the rule {:?}", rest.split('"').nth(1).unwrap_or(rest))));
        }
    }
    // Chains are listed in the order of their names by one variant, of their making by the other.
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines
}

/// What comes before our nat chains, or may: rules at the head of the same built-in chains, and nat chains of other
/// backends, of which the one registered last is asked first.
///
/// # Errors
/// See [`IptablesError`].
pub(super) fn before_ours(variant: Variant) -> Result<Vec<String>, IptablesError> {
    let mut before = Vec::new();
    for family in Family::BOTH.into_iter().filter(|family| namespace::has_family(*family)) {
        let saved = tool::save(variant, family)?;
        before.extend(heads(&saved).into_iter().map(|rule| format!("{} -A {rule}", family.name())));
    }
    match nat_chains_up_to(NAT_PRIORITY) {
        Ok(chains) => {
            before.extend(chains.into_iter().filter(|chain| variant == Variant::Legacy || !chain.starts_with("nat ")))
        }
        Err(NetfilterError::Unsupported(_)) => {}
        Err(error) => before.push(format!("what nf_tables holds, which cannot be read ({error})")),
    }
    let has_nat =
        |family| fs::read_to_string(names_file(family)).is_ok_and(|names| names.lines().any(|name| name == "nat"));
    if variant == Variant::Nft && Family::BOTH.into_iter().any(has_nat) {
        before.push("table nat of iptables-legacy".to_owned());
    }
    Ok(before)
}

/// First rules of built-in nat chains that are not our jump.
pub(super) fn heads(saved: &str) -> Vec<String> {
    let nat = saved.split_once("*nat").map(|(_, rest)| rest.split("COMMIT").next().unwrap_or_default());
    let rules: Vec<&str> = nat.unwrap_or_default().lines().filter_map(|line| Some(line.split_once("-A ")?.1)).collect();
    let of = |chain: &str| rules.iter().find(|rule| rule.starts_with(chain));
    let heads = ["OUTPUT ", "PREROUTING "].into_iter().filter_map(of);
    heads.filter(|rule| !rule.contains(&format!("-j {CHAIN_PREFIX}"))).map(|rule| (*rule).to_owned()).collect()
}

/// How many packets each rule of the chain has seen.
///
/// # Errors
/// See [`IptablesError`].
pub(super) fn packets(variant: Variant, family: Family, chain: &str) -> Result<Vec<u64>, IptablesError> {
    let saved = tool::save(variant, family)?;
    let of_chain = format!("-A {chain} ");
    let counters = saved.lines().filter_map(|line| line.split_once(&of_chain)).filter(|(_, rule)| *rule != MARKER);
    Ok(counters.filter_map(|(counters, _)| counters.strip_prefix('[')?.split(':').next()?.parse().ok()).collect())
}

/// What is missing of the variant on this machine: a tool, or the kernel's half.
#[must_use]
pub fn lacking(variant: Variant) -> Option<String> {
    let families = || Family::BOTH.into_iter().filter(|family| namespace::has_family(*family));
    if let Some(missing) = families().find_map(|family| tool::missing(variant, family)) {
        return Some(missing.to_string());
    }
    match variant {
        Variant::Nft => iptables_chains().err().map(|error| error.to_string()),
        Variant::Legacy => (!families().all(|family| fs::exists(names_file(family)).unwrap_or_default()))
            .then(|| "the node has not loaded the module ip_tables, or ip6_tables".to_owned()),
    }
}

/// Whether any family has tables of legacy iptables.
#[must_use]
pub fn any_legacy_tables() -> bool {
    Family::BOTH.into_iter().any(legacy_tables)
}

const fn names_file(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    }
}

fn legacy_tables(family: Family) -> bool {
    // Only root may read it, and then the tool could not either.
    fs::read_to_string(names_file(family)).is_ok_and(|names| !names.trim().is_empty())
}

fn may_hold(variant: Variant, family: Family, prefix: &str) -> bool {
    match variant {
        Variant::Legacy => legacy_tables(family),
        Variant::Nft => iptables_chains()
            .is_ok_and(|chains| chains.iter().any(|chain| chain.family == family && chain.chain.starts_with(prefix))),
    }
}

/// Leads one family to what is wanted; what it held before, and what it holds now.
fn lead_to(
    variant: Variant,
    family: Family,
    prefix: &'static str,
    wanted: &Holding,
) -> Result<(Holding, Holding), IptablesError> {
    let mut attempt = 1;
    loop {
        let saved = tool::save(variant, family)?;
        let before = Holding::parse(&saved, prefix);
        let mut foreign = foreign_chains(&saved, prefix).into_iter();
        if let Some((table, chain)) = foreign.find(|(table, chain)| wanted.has_chain(table, chain)) {
            return Err(IptablesError::Taken { variant, family, table, chain });
        }
        let marked = with_markers(variant, family, &before, wanted);
        let script = script(&before, &marked);
        if script.is_empty() {
            return Ok((before, marked));
        }
        match tool::restore(variant, family, &script) {
            Ok(()) => {
                tidy(family, &before, &marked);
                return Ok((before, marked));
            }
            Err(IptablesError::Failed { .. }) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => {
                // A table's commit before the one that failed stands.
                if let Ok(now) = tool::save(variant, family).map(|saved| Holding::parse(&saved, prefix))
                    && now != before
                    && let Err(second) = tool::restore(variant, family, &self::script(&now, &before))
                {
                    tracing::error!(
                        "what stood before could not be put back ({second}); `bypassctl init --cleanup` does it"
                    );
                }
                return Err(error);
            }
        }
    }
}

/// iptables on nf_tables makes built-in chains as it needs them, and no tool removes them again.
fn with_markers(variant: Variant, family: Family, before: &Holding, wanted: &Holding) -> Holding {
    let mut wanted = wanted.clone();
    let (Variant::Nft, Ok(chains)) = (variant, iptables_chains()) else { return wanted };
    for table in &mut wanted.tables {
        let marked = |rules: &[String], chain: &str| rules.contains(&format!("{chain} {MARKER}"));
        let earlier = before.tables.iter().find(|other| other.name == table.name);
        for jump in &table.jumps {
            let Some((built_in, chain)) = jump.split_once(" -j ") else { continue };
            let there = NamedChain { family, table: table.name.clone(), chain: built_in.to_owned() };
            let ours = earlier.is_some_and(|earlier| marked(&earlier.rules, chain));
            if (ours || !chains.contains(&there)) && !marked(&table.rules, chain) {
                table.rules.push(format!("{chain} {MARKER}"));
            }
        }
    }
    wanted
}

/// Removes built-in chains that were made for chains of ours that are gone, where nobody else uses them.
fn tidy(family: Family, before: &Holding, now: &Holding) {
    let made = |table: &HeldTable| -> Vec<String> {
        let of_jump = |jump: &String| {
            let (built_in, chain) = jump.split_once(" -j ")?;
            table.rules.contains(&format!("{chain} {MARKER}")).then(|| built_in.to_owned())
        };
        table.jumps.iter().filter_map(of_jump).collect()
    };
    let table_family = if family == Family::V4 { TableFamily::Ip } else { TableFamily::Ip6 };
    for table in &before.tables {
        let kept = now.tables.iter().find(|other| other.name == table.name).map(made).unwrap_or_default();
        for built_in in made(table).into_iter().filter(|built_in| !kept.contains(built_in)) {
            if let Err(error) = table::delete_if_empty(table_family, &table.name, &built_in) {
                tracing::warn!("chain {built_in} of table {} could not be removed: {error}", table.name);
            }
        }
    }
}
