//! `bypassctl inject`: manifests in, manifests with the agent out.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::{InjectArgs, InjectionArgs};
use crate::commands::{Failure, Outcome, print};
use crate::core::config::ClusterPorts;
use crate::core::inject::{self, Options, Untouched};

/// More than any cluster's manifests; what is larger is something else.
const LARGEST: u64 = 256 << 20;

pub(super) fn run(args: &InjectArgs) -> Result<Outcome, Failure> {
    let options = options(&args.injection)?;
    // Said of the options, and not of the first pod; and of what has no pod too.
    if !args.uninject {
        inject::check_options(&options).map_err(Failure::usage)?;
    }
    let mut whole = String::new();
    for (name, text) in manifests(&args.files)? {
        let edited = if args.uninject { inject::uninject(&text) } else { inject::inject(&text, &options) };
        let edited = edited.map_err(|error| {
            let is_ours = error == Untouched::Wrong;
            let error = anyhow!(error).context(format!("{name} is left as it is"));
            if is_ours { Failure::from(error) } else { Failure::usage(error) }
        })?;
        for object in &edited.changed {
            tracing::info!(object, "{}", if args.uninject { "taken away" } else { "injected" });
        }
        for (object, note) in &edited.notes {
            tracing::warn!(object, "{note}");
        }
        if edited.changed.is_empty() {
            tracing::warn!(file = name, "there is nothing to change: no pod template, or none that is injected");
        }
        separate(&mut whole);
        whole.push_str(&edited.text);
    }
    print(&whole)?;
    Ok(Outcome::Done)
}

/// The texts of these files, of standard input where there are none, by their names.
pub(super) fn manifests(files: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin[..] } else { files };
    let read = |file: &PathBuf| {
        let name = if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() };
        let text = read(file).with_context(|| format!("cannot read manifests from {name}")).map_err(Failure::usage)?;
        Ok((name, text))
    };
    files.iter().map(read).collect()
}

/// What the command line asks for.
pub(super) fn options(args: &InjectionArgs) -> Result<Options, Failure> {
    let ports = ClusterPorts::new(args.cluster.preset, &args.cluster.remoting_port, &args.cluster.management_port)
        .map_err(Failure::usage)?;
    Ok(Options {
        image: args.image.clone(),
        pull_policy: args.image_pull_policy.clone(),
        sidecar: args.sidecar,
        path: args.path,
        ports,
        mode: args.mode,
        permissive_until: args.permissive_until.clone(),
        allow: args.allow.clone(),
        tls_secret: args.tls_secret.clone(),
        backend: args.backend,
        events: args.events,
        readiness_gate: args.readiness_gate,
    })
}

/// Files are documents of their own.
pub(super) fn separate(whole: &mut String) {
    if whole.is_empty() {
        return;
    }
    if !whole.ends_with('\n') {
        whole.push('\n');
    }
    whole.push_str("---\n");
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LARGEST + 1).read_to_string(&mut text)?
    } else {
        fs::File::open(file)?.take(LARGEST + 1).read_to_string(&mut text)?
    };
    if read as u64 > LARGEST {
        return Err(anyhow!("it is larger than {} MiB", LARGEST >> 20));
    }
    Ok(text)
}
