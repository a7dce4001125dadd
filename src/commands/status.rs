//! `bypassctl status`: the state of a cluster, or with `--local` what the sidecar of this pod says of itself.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cli::{OutputFormat, StatusArgs};
use crate::commands::{Failure, Outcome, overview, print};
use crate::core::render::status;
use crate::core::status::{Readiness, Status};
use crate::pod::admin;

/// Between two looks at a sidecar that is waited for.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) fn run(args: &StatusArgs) -> Result<Outcome, Failure> {
    if !args.local {
        if args.ready || args.alive {
            let flag = if args.ready { "--ready" } else { "--alive" };
            return Err(Failure::usage(anyhow!("{flag} is about the sidecar of this pod: give --local too")));
        }
        return overview::run(args);
    }
    if args.watch.is_some() {
        return Err(Failure::usage(anyhow!("--watch is about a cluster, and --local about this pod")));
    }
    let deadline = Instant::now() + Duration::from_secs(args.wait.unwrap_or_default());
    loop {
        let looked = look(args);
        // Who answers, and is none of ours, will not become one.
        let is_over = match &looked {
            Ok((outcome, _)) => *outcome == Outcome::Done,
            Err(failure) => !failure.is_not_well(),
        };
        if is_over || Instant::now() + PAUSE > deadline {
            let (outcome, text) = looked?;
            print(&text)?;
            return Ok(outcome);
        }
        std::thread::sleep(PAUSE);
    }
}

/// What this pod's sidecar says, and how it is to be told.
fn look(args: &StatusArgs) -> Result<(Outcome, String), Failure> {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), args.admin_port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = if args.alive { "/healthz" } else { "/status" };
    let (code, answer) = runtime.block_on(admin::get(address, path)).map_err(|error| {
        Failure::not_well(anyhow!(
            "no sidecar answers at {address}: {error}; does it run in this network namespace, and with this --admin-port?"
        ))
    })?;
    if args.alive {
        let outcome = if code.is_success() { Outcome::Done } else { Outcome::NotWell };
        return Ok((outcome, if outcome == Outcome::Done { String::new() } else { answer }));
    }
    let status: Status = serde_json::from_str(&answer).map_err(|error| {
        anyhow!("what answers at {address} is no bypassctl proxy, or one of another version: {error}")
    })?;
    let Some(readiness) = &status.readiness else {
        return Err(anyhow!("what answers at {address} is no bypassctl proxy: its /status tells no readiness").into());
    };
    if args.ready {
        return told_readiness(readiness, &answer, args.output);
    }
    let text = match args.output {
        OutputFormat::Text => {
            status::text(&status, std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        }
        OutputFormat::Json => answer,
    };
    Ok((Outcome::Done, text))
}

/// For probes: nothing if it is ready.
fn told_readiness(readiness: &Readiness, answer: &str, output: OutputFormat) -> Result<(Outcome, String), Failure> {
    if readiness.ready {
        return Ok((Outcome::Done, String::new()));
    }
    let text = match output {
        OutputFormat::Text => status::readiness(readiness, false),
        OutputFormat::Json => {
            let whole: serde_json::Value = serde_json::from_str(answer)?;
            format!("{}\n", whole["readiness"])
        }
    };
    Ok((Outcome::NotWell, text))
}
