//! By which of the kernel's packet filters the rules are made.

use std::fmt;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// The first of these that this kernel and image have
    Auto,
    /// nf_tables over netlink, without any tool
    Nft,
    /// iptables on nf_tables, by iptables-nft-restore
    IptablesNft,
    /// legacy iptables, by iptables-legacy-restore
    IptablesLegacy,
}

/// A packet filter, and how it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables over netlink.
    Nft,
    /// One of the two iptables.
    Iptables(Variant),
}

/// The two iptables: the same language, different rules in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// On nf_tables.
    Nft,
    /// On ip_tables.
    Legacy,
}

impl Variant {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];

    /// As in the tools' names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

impl BackendChoice {
    /// What is tried, first to last.
    #[must_use]
    pub fn candidates(self) -> Vec<Backend> {
        match self {
            Self::Auto => {
                vec![Backend::Nft, Backend::Iptables(Variant::Nft), Backend::Iptables(Variant::Legacy)]
            }
            Self::Nft => vec![Backend::Nft],
            Self::IptablesNft => vec![Backend::Iptables(Variant::Nft)],
            Self::IptablesLegacy => vec![Backend::Iptables(Variant::Legacy)],
        }
    }
}

impl fmt::Display for Backend {
    /// As `--backend` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Iptables(Variant::Nft) => "iptables-nft",
            Self::Iptables(Variant::Legacy) => "iptables-legacy",
        })
    }
}
