//! The ways in which `init` gets its rules into the kernel.

use std::fmt;

use super::pod::Pod;

/// A value of `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nft,
    IptablesNft,
    IptablesLegacy,
}

impl Backend {
    pub(crate) const ALL: [Self; 3] = [Self::Nft, Self::IptablesNft, Self::IptablesLegacy];
    /// Those that need tools.
    pub(crate) const IPTABLES: [Self; 2] = [Self::IptablesNft, Self::IptablesLegacy];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Rules in every backend, to compare: nf_tables as `nft` prints them, and what both iptables save, without counters and
/// dates. Legacy tables that hold no rule are no rules: the kernel keeps a table for the namespace's life.
pub(crate) fn rules(pod: &Pod) -> String {
    let mut all = pod.nft_ruleset();
    for command in ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"] {
        let legacy = command.contains("legacy");
        for line in pod.sh(command).lines().filter(|line| !line.starts_with('#')) {
            let line = line.split(" [").next().unwrap_or_default();
            if !legacy || line.starts_with('-') {
                all += &format!("{command} {line}\n");
            }
        }
    }
    all
}
