//! `bypassctl status` of a cluster: once, or again and again.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::{OutputFormat, StatusArgs};
use crate::commands::cluster::{Question, is_final, runtime};
use crate::commands::{Failure, Outcome, chain, print, watch};
use crate::core::overview::Overview;
use crate::core::render::overview;

/// Columns where there is no terminal: nothing is cut for a file or a program.
const WIDTH: u16 = u16::MAX;

pub(super) fn run(args: &StatusArgs) -> Result<Outcome, Failure> {
    let question = Question::new(&args.target, &args.selection, &args.cluster)?;
    let every = args.watch.map(Duration::from_secs);
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    match every {
        Some(every) if terminal && args.output == OutputFormat::Text => watch::run(question, every),
        Some(every) => runtime()?.block_on(again(&question, every, args.output)),
        None => {
            let overview = runtime()?.block_on(look(&question))?;
            tell(&overview, args.output)?;
            Ok(outcome(&overview))
        }
    }
}

pub(super) async fn look(question: &Question) -> Result<Overview, Failure> {
    Ok(Overview::of(&question.ask_live().await?))
}

pub(super) const fn outcome(overview: &Overview) -> Outcome {
    if overview.well { Outcome::Done } else { Outcome::NotWell }
}

fn tell(seen: &Overview, output: OutputFormat) -> Result<(), Failure> {
    print(&match output {
        OutputFormat::Text => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let width = comfy_table::Table::new().width().unwrap_or(WIDTH);
            overview::text(seen, width, colour)
        }
        OutputFormat::Json => serde_json::to_string(seen)? + "\n",
    })
}

/// Prints it again and again, one JSON object a line or one text after another, until Ctrl-C.
async fn again(question: &Question, every: Duration, output: OutputFormat) -> Result<Outcome, Failure> {
    let mut last = Outcome::NotWell;
    loop {
        // From one look to the next: where pods are silent, a look alone takes seconds.
        let next = Instant::now() + every;
        let looked = tokio::select! {
            looked = look(question) => looked,
            _ = tokio::signal::ctrl_c() => return Ok(last),
        };
        match looked {
            Ok(overview) => {
                tell(&overview, output)?;
                if output == OutputFormat::Text {
                    print("\n")?;
                }
                last = outcome(&overview);
            }
            Err(failure) if is_final(&failure) => return Err(failure),
            Err(failure) => {
                // A closed standard error leaves only the exit code to say it.
                let _ = writeln!(std::io::stderr(), "bypassctl: {}", chain(&failure.error));
                last = Outcome::NotWell;
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            _ = tokio::signal::ctrl_c() => return Ok(last),
        }
    }
}
