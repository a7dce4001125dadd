//! Ways to break a healthy manifest, each by the smallest change, and the codes under which each is found.

mod agent;
mod discovery;
mod mesh;
mod network;
mod ports;
mod probes;
mod reading;
mod rights;
mod rollout;

use std::collections::BTreeSet;

use crate::{codes, failures, said};

/// One broken variant.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    from: &'static str,
    /// Text, and what stands in its place.
    patches: &'static [(&'static str, &'static str)],
    codes: &'static [&'static str],
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
const CATEGORIES: [&[Case]; 9] = [
    ports::CASES,
    probes::CASES,
    mesh::CASES,
    agent::CASES,
    rights::CASES,
    discovery::CASES,
    network::CASES,
    rollout::CASES,
    reading::CASES,
];

pub(crate) fn cases() -> impl Iterator<Item = &'static Case> {
    CATEGORIES.into_iter().flatten()
}

#[test]
fn each_way_to_break_a_manifest_is_found_under_its_code_and_no_other() {
    assert!(cases().count() >= 40);
    let mut wrong = String::new();
    for case in cases() {
        let failures = failures(&case.text());
        if codes(&failures) != BTreeSet::from_iter(case.codes.iter().copied()) {
            wrong += &format!("\n{}: expected {:?}, found{}", case.what, case.codes, said(&failures));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Every check on manifests has at least one way to fail.
#[test]
fn every_check_on_manifests_has_a_broken_variant() {
    use bypassctl::core::checks::catalog;
    let broken: BTreeSet<&str> = cases().flat_map(|case| case.codes.iter().copied()).collect();
    // What a live cluster, a pod or a node alone shows is tested elsewhere.
    let elsewhere = ["The running cluster", "check pod", "check pre"];
    let of_files = catalog::CATEGORIES.iter().filter(|(category, _)| !elsewhere.contains(category));
    let codes = of_files.flat_map(|(_, entries)| entries.iter()).map(|entry| entry.code);
    let untested: Vec<&str> = codes.filter(|code| !broken.contains(code)).collect();
    assert_eq!(untested, ["rbac-pods"], "checks without a broken variant");
}
