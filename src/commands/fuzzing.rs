//! What `fuzz/` asks of the parsers of this module.

use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _};
use serde_json::Value;
use time::OffsetDateTime;

use crate::cli::{Cli, Command};
use crate::commands::{check, init, parse, proxy};
use crate::core::backend::BackendChoice;
use crate::core::config::ClusterPorts;
use crate::core::manifests::{Named, Reader};
use crate::core::render::report;
use crate::core::report::{Report, Severity};
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
