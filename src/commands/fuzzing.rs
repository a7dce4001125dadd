//! What `fuzz/` asks of the parsers of this module.

use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _};
use serde_json::Value;
use time::OffsetDateTime;

use crate::cli::{Cli, Command};
use crate::commands::{check, init, parse, proxy};
use crate::core::backend::BackendChoice;
use crate::core::cni::{self, chain, choice};
use crate::core::config::ClusterPorts;
use crate::core::inject::{self, Options, SidecarKind};
use crate::core::manifests::{Named, Reader};
use crate::core::render::report;
use crate::core::report::{Report, Severity};
use crate::core::route::{TlsMode, TrafficPath};
use crate::core::{checks, saved};

/// A configuration file, for the command with this name.
pub fn configuration(command: &str, text: &str) {
    let Ok(with_defaults) = parse::with_text(Cli::command(), Path::new("config.yaml"), text) else { return };
    let Ok(matches) = with_defaults.try_get_matches_from(["bypassctl", command]) else { return };
    let Ok(cli) = Cli::from_arg_matches(&matches) else { return };
    match cli.command {
        Command::Init(args) => {
            let Ok(plan) = init::plan(&args) else { return };
            for backend in [BackendChoice::Nft, BackendChoice::IptablesLegacy] {
                assert!(!init::rendered(&plan, backend).is_empty());
            }
        }
        Command::Proxy(args) => {
            let _ = proxy::configure(*args);
        }
        _ => {}
    }
}

/// What the sidecar's `/status` says.
pub fn status(text: &str) {
    let status: Value = serde_json::from_str(text).unwrap_or_default();
    let _ = check::rules_effective(&status);
}

/// A stranger's manifests: read, judged, printed, saved, and read again.
///
/// # Panics
/// If what is printed would act on a terminal, or what was saved cannot be read.
pub fn manifests(text: &str) {
    let mut reader = Reader::new("default");
    reader.text("input", text, Named::Itself);
    let ports = ClusterPorts::new(None, &[], &[]).expect("the defaults");
    let facts = reader.facts(OffsetDateTime::UNIX_EPOCH, ports);
    let report = Report::new(checks::run(&facts));
    for printed in [report::short(&report), report::json(&report), report::junit(&report, Severity::Info)] {
        assert!(!printed.contains(|c: char| c.is_control() && c != '\n'), "{printed:?}");
    }
    let saved = saved::to_text(&facts).expect("JSON");
    saved::from_text(&saved).expect("what was saved");
}

/// What a container runtime hands to the CNI plugin, what lies in its directory of configurations, and a pod's record.
///
/// # Panics
/// If a list is not as it was once the plugin is out of it again, or if putting it in does not come to an end.
pub fn cni(text: &str) {
    if let Ok(configuration) = cni::Configuration::parse(text.as_bytes())
        && let Ok(result) = configuration.result()
    {
        assert_eq!(result["cniVersion"], configuration.version.as_str());
    }
    if let Ok(Some(pod)) = cni::PodName::of(text) {
        assert!(!pod.name.is_empty() && !pod.namespace.is_empty());
    }
    if let Ok(pod) = serde_json::from_str(text) {
        let _ = choice::choose(&pod, &cni::Settings::default());
    }
    let settings = cni::Settings { preset: Some("pekko".to_owned()), ..cni::Settings::default() };
    let Ok(with) = chain::with_plugin(text, &settings) else { return };
    let with = with.as_deref().unwrap_or(text);
    assert_eq!(chain::with_plugin(with, &settings), Ok(None), "twice");
    let without = |text: &str| {
        let taken = chain::without_plugin(text).expect("a list");
        serde_json::from_str::<Value>(taken.as_deref().unwrap_or(text)).expect("JSON")
    };
    assert_eq!(without(with), without(text), "taken out");
}

/// Manifests that the agent is added to: twice is once, and taking it away leaves what was there before.
///
/// # Panics
/// If that does not hold, or if something can no longer be read by another parser.
pub fn injection(text: &str) {
    let read = |text: &str| serde_saphyr::from_multiple::<Value>(text).is_ok();
    for (sidecar, path) in [
        (SidecarKind::Native, TrafficPath::Rules),
        (SidecarKind::Classic, TrafficPath::Rules),
        (SidecarKind::Native, TrafficPath::Ports),
    ] {
        let options = Options {
            image: "bypassctl:1".to_owned(),
            pull_policy: None,
            sidecar,
            path,
            ports: ClusterPorts::new(None, &[], &[]).expect("the defaults"),
            mode: TlsMode::Strict,
            permissive_until: None,
            allow: Vec::new(),
            tls_secret: "{name}-remoting-tls".to_owned(),
            backend: BackendChoice::Auto,
            events: true,
            readiness_gate: true,
        };
        let once = match inject::inject(text, &options) {
            Ok(once) => once,
            Err(error) => return assert_ne!(error, inject::Untouched::Wrong, "of {text}"),
        };
        let twice = inject::inject(&once.text, &options).expect("what was injected can be injected again");
        assert_eq!(twice.text, once.text, "twice");
        let before = inject::uninject(text).expect("what can be injected can be taken away");
        let back = inject::uninject(&once.text).expect("what was injected can be taken away");
        assert_eq!(back.text, before.text, "taken away");
        assert!(!read(&before.text) || read(&once.text), "unreadable: {}", once.text);
    }
}
