//! `bypassctl demo`: the privilege, the story on a thread of its own, and a clean end however it ends.

mod present;

use std::io::{self, BufRead as _};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use self::present::Screen;
use crate::cli::DemoArgs;
use crate::commands::{Failure, Outcome};
use crate::core::config::DEFAULT_AGENT_UID;
use crate::demo::story::{self, Event};
use crate::demo::{DemoError, Lab};
use crate::sandbox::children::Household;
use crate::sandbox::privilege::{self, Privilege, PrivilegeError};

const ADVICE: &str = "the demo needs root, or a user namespace of its own, and of the kernel network namespaces, veth, bridge \
     and nf_tables; in a container, run it with --privileged";

/// What can happen while the story goes on.
enum Happening {
    /// The set-up is up, to be played with.
    Keeping,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal(&'static str),
    /// The story is over; whether every promise was kept.
    Over(Result<bool, DemoError>),
}

pub(super) fn run(args: &DemoArgs) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let privilege = privilege::acquire(DEFAULT_AGENT_UID).map_err(|error| match error {
        PrivilegeError::Io(_) => Failure::from(error),
        _ => Failure::environment(error),
    })?;
    let household = Household::new("bypassctl-demo").context("no place for keys and logs")?;
    let (happened, happenings) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let outcome = listen_to_signals(happened.clone()).map_err(Failure::from).and_then(|()| {
        let story = Story { household: household.clone(), keep: args.keep, privilege, start };
        thread::Builder::new()
            .name("story".to_owned())
            .spawn({
                let release = release.clone();
                move || {
                    let over = story.tell(&happened, release, &released);
                    let _ = happened.send(Happening::Over(over));
                }
            })
            .context("cannot start a thread")?;
        follow(&happenings, &release)
    });
    household.close();
    outcome
}

fn follow(happenings: &Receiver<Happening>, release: &Sender<()>) -> Result<Outcome, Failure> {
    let mut keeping = false;
    loop {
        match happenings.recv() {
            Ok(Happening::Keeping) => keeping = true,
            Ok(Happening::Signal(_)) if keeping => {
                // The story goes on to its clean-up; a second signal cuts that short.
                keeping = false;
                let _ = release.send(());
            }
            Ok(Happening::Signal(name)) => {
                return Err(anyhow!("{name}: stopped before the end; everything is taken down").into());
            }
            Ok(Happening::Over(Ok(true))) => return Ok(Outcome::Done),
            Ok(Happening::Over(Ok(false))) => return Ok(Outcome::NotWell),
            Ok(Happening::Over(Err(error))) => return failed(error),
            Err(mpsc::RecvError) => return Err(anyhow!("the demo's thread ended without a word").into()),
        }
    }
}

fn failed(error: DemoError) -> Result<Outcome, Failure> {
    if error.is_environment() {
        let ours = matches!(error, DemoError::Child { .. });
        let error = anyhow::Error::from(error);
        return Err(Failure::environment(if ours { error } else { error.context(ADVICE) }));
    }
    if let DemoError::Child { .. } = error {
        eprintln!("bypassctl: {error}");
        return Ok(Outcome::NotWell);
    }
    Err(Failure::from(error))
}

/// A thread that reports signals. Their handlers stay for the rest of the process.
fn listen_to_signals(happened: Sender<Happening>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "interrupted",
                    _ = terminate.recv() => "terminated",
                    _ = hangup.recv() => "hung up",
                };
                if happened.send(Happening::Signal(name)).is_err() {
                    return;
                }
            }
        });
    })?;
    Ok(())
}

struct Story {
    household: Household,
    keep: bool,
    privilege: Privilege,
    start: Instant,
}

impl Story {
    fn tell(
        self,
        happened: &Sender<Happening>,
        release: Sender<()>,
        released: &Receiver<()>,
    ) -> Result<bool, DemoError> {
        let mut screen = Screen::new(self.start);
        screen.title(self.privilege);
        let lab = story::show(&self.household, &mut |event| screen.show(event))?;
        if self.keep {
            self.hold(&screen, &lab, happened, release, released);
        }
        story::take_down(lab, &mut |event: Event| screen.show(event))?;
        Ok(screen.end())
    }

    fn hold(
        &self,
        screen: &Screen,
        lab: &Lab,
        happened: &Sender<Happening>,
        release: Sender<()>,
        released: &Receiver<()>,
    ) {
        if self.privilege == Privilege::UserNamespace {
            // Without it the commands need root, and all else is well.
            let _ = privilege::admit_own_user();
        }
        screen.doors(&lab.doors(), self.privilege);
        let _ = happened.send(Happening::Keeping);
        // Blocked in read(2) until Enter or the end of file, or until the process is over.
        thread::spawn(move || {
            let _ = io::stdin().lock().read_line(&mut String::new());
            let _ = release.send(());
        });
        let _ = released.recv();
    }
}
