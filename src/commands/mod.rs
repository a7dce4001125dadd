//! The commands: each reads, decides with [`crate::core`], does, prints.
//!
//! Invariant: nothing outside this module prints a result or chooses an exit code.

mod certs;
mod check;
mod cluster;
mod cni;
mod demo;
mod explain;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod init;
mod inject;
mod overview;
mod parse;
mod pre;
mod proxy;
mod render;
mod schema;
mod shell;
mod shim;
mod status;
mod watch;
mod webhook;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{Cli, Command, Global, LogFormat};
use crate::commands::parse::Parsed;
use crate::core::report::acts_on_terminals;
use crate::proxy::log::{Counting, LogFilter, Lost, parse_filter};

/// How a command that ran ended, as the exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 0: done.
    Done,
    /// 1: the thing asked about is not well.
    NotWell,
}

/// A failure with its exit code.
#[derive(Debug)]
pub struct Failure {
    kind: FailureKind,
    error: anyhow::Error,
}

/// Which exit code a failure has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// 1: the thing asked about is not well.
    NotWell,
    /// 2: bad arguments or configuration.
    Usage,
    /// 3: the environment cannot do it.
    Environment,
    /// 4: rules applied but not proven, rolled back.
    NotProven,
    /// 5: a runtime failure.
    Runtime,
}

impl Failure {
    /// 1: the thing asked about is not well.
    pub fn not_well(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: FailureKind::NotWell, error: error.into() }
    }

    /// 2: bad arguments or configuration.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: FailureKind::Usage, error: error.into() }
    }

    /// 3: the environment cannot do it.
    pub fn environment(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: FailureKind::Environment, error: error.into() }
    }

    /// 4: rules applied but not proven.
    pub fn not_proven(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: FailureKind::NotProven, error: error.into() }
    }

    fn is_not_well(&self) -> bool {
        self.kind == FailureKind::NotWell
    }

    const fn exit_code(&self) -> u8 {
        match self.kind {
            FailureKind::NotWell => 1,
            FailureKind::Usage => 2,
            FailureKind::Environment => 3,
            FailureKind::NotProven => 4,
            FailureKind::Runtime => 5,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { kind: FailureKind::Runtime, error: error.into() }
    }
}

/// Runs the command line; the whole program.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Parsed { cli, links } = match parse::parse(args.collect()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed standard error leaves only the exit code to say it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    // The guard goes once all is done: what waits to be written then still is.
    let outcome = start_logging(&cli.global, &cli.command).and_then(|(log, _guard)| {
        for variable in links {
            // An exec probe that is content says nothing.
            tracing::debug!(variable, "it is a Service's, and no option's: ignored");
        }
        run(cli, log)
    });
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::NotWell) => ExitCode::from(1),
        Err(failure) => {
            // A closed standard error leaves only the exit code to say it.
            let _ = writeln!(std::io::stderr(), "bypassctl: {}", harmless(&chain(&failure.error)));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli, log: LogFilter) -> Result<Outcome, Failure> {
    match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Proxy(args) => proxy::run(*args, log),
        Command::Check(args) => check::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Render(args) => render::run(&args),
        Command::Webhook(args) => webhook::run(&args),
        Command::Shim(args) => shim::run(&args),
        Command::Certs(args) => certs::run(&args),
        Command::Cni(args) => cni::run(args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

/// The error and its causes, each said once: some errors quote their cause themselves.
fn chain(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// A server's words may be in it: as they are, without what acts on a terminal, and not without end.
fn harmless(text: &str) -> String {
    const MOST: usize = 4000;
    let keep = |c| c == '\n' || !acts_on_terminals(c);
    let mut shown: String = text.chars().take(MOST).map(|c| if keep(c) { c } else { '\u{fffd}' }).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Writes a result to standard output. A reader that has gone away (`| head`) has what it wanted.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("the result cannot be written to standard output").into())
        }
        _ => Ok(()),
    }
}

/// What the API server refuses is told in the results; the client's own words of it are for whoever asks for them.
fn without_kube(filter: EnvFilter, text: &str) -> EnvFilter {
    if text.contains("kube") || text.contains("debug") || text.contains("trace") {
        return filter;
    }
    filter.add_directive("kube_client=off".parse().expect("a directive"))
}

fn start_logging(global: &Global, command: &Command) -> Result<(LogFilter, Option<WorkerGuard>), Failure> {
    let filter = parse_filter(&global.log_level).map_err(|error| {
        Failure::usage(anyhow::anyhow!("--log-level {:?} is no log filter: {error}", global.log_level))
    })?;
    let filter = match command {
        // Its filter is shown and changed while it runs, and it does not ask the API server.
        Command::Proxy(_) => filter,
        _ => without_kube(filter, &global.log_level),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let (writer, queue) = log_writer(command);
    let (lost, guard) = queue.unzip();
    // A line that cannot be written, on a full disk for instance, would be complained about on the same standard error by
    // a macro that panics if that fails too.
    match global.log_format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            let text = tracing_subscriber::fmt::layer().with_ansi(ansi).log_internal_errors(false);
            registry.with(text.with_writer(writer)).init();
        }
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
            registry.with(json.log_internal_errors(false).with_writer(writer)).init();
        }
    }
    Ok((LogFilter::new(handle, lost), guard))
}

/// Lines that wait for whoever reads the log; beyond them the newest are lost.
const MOST_LINES: usize = 4096;

/// Where lines go. A reader that stalls (a container runtime that restarts, a disk that hangs) must not stop what serves:
/// there a thread of its own writes.
fn log_writer(command: &Command) -> (BoxMakeWriter, Option<(Lost, WorkerGuard)>) {
    if !matches!(command, Command::Proxy(_) | Command::Webhook(_)) {
        return (BoxMakeWriter::new(std::io::stderr), None);
    }
    let builder = NonBlockingBuilder::default().buffered_lines_limit(MOST_LINES).thread_name("log");
    let unwritten = Arc::default();
    let (writer, guard) = builder.finish(Counting { to: std::io::stderr(), unwritten: Arc::clone(&unwritten) });
    let lost = Lost { queued: writer.error_counter(), unwritten };
    (BoxMakeWriter::new(writer), Some((lost, guard)))
}
