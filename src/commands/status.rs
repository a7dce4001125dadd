//! `bypassctl status`: the state of a cluster, or with `--local` what the sidecar of this pod says of itself.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::anyhow;

use crate::cli::{OutputFormat, StatusArgs};
use crate::commands::{Failure, Outcome, overview, print};
use crate::core::render::status;
use crate::core::status::{Readiness, Status};
use crate::pod::admin;

pub(super) fn run(args: &StatusArgs) -> Result<Outcome, Failure> {
    if !args.local {
        if args.ready {
            return Err(Failure::usage(anyhow!("--ready is about the sidecar of this pod: give --local too")));
        }
        return overview::run(args);
    }
    if args.watch.is_some() {
        return Err(Failure::usage(anyhow!("--watch is about a cluster, and --local about this pod")));
    }
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), args.admin_port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (_, answer) = runtime.block_on(admin::get(address, "/status")).map_err(|error| {
        Failure::not_well(anyhow!(
            "no sidecar answers at {address}: {error}; does it run in this network namespace, and with this --admin-port?"
        ))
    })?;
    let status: Status = serde_json::from_str(&answer).map_err(|error| {
        anyhow!("what answers at {address} is no bypassctl proxy, or one of another version: {error}")
    })?;
    let Some(readiness) = &status.readiness else {
        return Err(anyhow!("what answers at {address} is no bypassctl proxy: its /status tells no readiness").into());
    };
    if args.ready {
        return tell_readiness(readiness, &answer, args.output);
    }
    print(&match args.output {
        OutputFormat::Text => {
            status::text(&status, std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        }
        OutputFormat::Json => answer,
    })?;
    Ok(Outcome::Done)
}

/// For probes: nothing if it is ready.
fn tell_readiness(readiness: &Readiness, answer: &str, output: OutputFormat) -> Result<Outcome, Failure> {
    if readiness.ready {
        return Ok(Outcome::Done);
    }
    print(&match output {
        OutputFormat::Text => status::readiness(readiness, false),
        OutputFormat::Json => {
            let whole: serde_json::Value = serde_json::from_str(answer)?;
            format!("{}\n", whole["readiness"])
        }
    })?;
    Ok(Outcome::NotWell)
}
