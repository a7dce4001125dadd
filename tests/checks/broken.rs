//! Ways to break a healthy manifest, each by the smallest change, and the codes under which each is found.

mod agent;
mod discovery;
mod library;
mod mesh;
mod native;
mod network;
mod ports;
mod probes;
mod reading;
mod rights;
mod rollout;

pub(crate) const AKKA: &str = include_str!("healthy/akka.yaml");
pub(crate) const MINIMAL: &str = include_str!("healthy/akka-minimal.yaml");
pub(crate) const ISTIO: &str = include_str!("healthy/istio.yaml");
pub(crate) const DNS: &str = include_str!("healthy/pekko-dns.yaml");
pub(crate) const BYPASSCTL: &str = include_str!("healthy/bypassctl.yaml");
pub(crate) const NATIVE: &str = include_str!("healthy/native.yaml");
/// What `inject --path ports` writes.
pub(crate) const PORTS: &str = include_str!("../golden/inject/ports.yaml");

/// What raises no alarm.
pub(crate) const HEALTHY: [(&str, &str); 6] = [
    ("akka", AKKA),
    ("akka-minimal", MINIMAL),
    ("istio", ISTIO),
    ("bypassctl", BYPASSCTL),
    ("native", NATIVE),
    ("ports", PORTS),
];

/// One broken variant.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    from: &'static str,
    /// Text, and what stands in its place.
    patches: &'static [(&'static str, &'static str)],
    /// Under which it is found.
    pub(crate) codes: &'static [&'static str],
}

impl Case {
    pub(crate) fn text(&self) -> String {
        self.patches.iter().fold(self.from.to_owned(), |text, (old, new)| {
            assert!(text.contains(old), "{}: {old:?} is not in the manifest", self.what);
            text.replacen(old, new, 1)
        })
    }
}

const fn case(
    what: &'static str,
    from: &'static str,
    patches: &'static [(&'static str, &'static str)],
    codes: &'static [&'static str],
) -> Case {
    Case { what, from, patches, codes }
}
/// A slice for each category.
const CATEGORIES: [&[Case]; 11] = [
    ports::CASES,
    probes::CASES,
    mesh::CASES,
    agent::CASES,
    library::CASES,
    native::CASES,
    rights::CASES,
    discovery::CASES,
    network::CASES,
    rollout::CASES,
    reading::CASES,
];

pub(crate) fn cases() -> impl Iterator<Item = &'static Case> {
    CATEGORIES.into_iter().flatten()
}
