//! `bypassctl shim`: brings the library that is preloaded into apps to a directory that their containers share.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::ShimArgs;
use crate::commands::{Failure, Outcome, print};
use crate::core::inject::LIBRARY;

/// Many times the library's size.
const LARGEST: u64 = 16 << 20;
/// Where `e_type` stands, and what it is in a shared library (`ET_DYN`).
const TYPE_AT: usize = 16;
const SHARED: u16 = 3;
/// Where `e_machine` stands, and the number of this processor's instruction set (elf(5)).
const MACHINE_AT: usize = 18;
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
/// What it has to export, as the names stand in its table of strings: the end of one may serve as another.
const EXPORTED: [&[u8]; 4] = [b"connect\0", b"\0__connect\0", b"\0getpeername\0", b"\0Agent_OnLoad\0"];

pub(super) fn run(args: &ShimArgs) -> Result<Outcome, Failure> {
    let from = match &args.library {
        Some(path) => path.clone(),
        None => beside_the_executable().map_err(Failure::environment)?,
    };
    let library = read(&from).map_err(Failure::environment)?;
    let to = args.install.join(LIBRARY);
    write(&to, &library).with_context(|| format!("cannot install {}", to.display()))?;
    print(&format!("{}\n", to.display()))?;
    Ok(Outcome::Done)
}

/// As the image has it, as an archive has it, and as cargo has built it.
fn beside_the_executable() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().context("cannot tell where this executable is")?;
    let dir = executable.parent().unwrap_or(Path::new("/"));
    let places = ["../lib/bypassctl", ".", "../shim"].map(|place| dir.join(place).join(LIBRARY));
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        anyhow!("{LIBRARY} is not beside this executable ({}); name it with --library", places.join(", "))
    })
}

/// Reads it, and makes sure that programs of this machine can load it: the dynamic linker goes on without what it cannot.
fn read(from: &Path) -> anyhow::Result<Vec<u8>> {
    let mut library = Vec::new();
    let opened = File::open(from).and_then(|file| file.take(LARGEST).read_to_end(&mut library));
    opened.with_context(|| format!("cannot read {}", from.display()))?;
    let number = |at: usize| library.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let is_ours = |name: &&[u8]| library.windows(name.len()).any(|bytes| bytes == *name);
    let expected = if !library.starts_with(b"\x7fELF\x02\x01") || number(TYPE_AT) != Some(SHARED) {
        "a shared library (64-bit ELF, ET_DYN)".to_owned()
    } else if number(MACHINE_AT) != Some(MACHINE) {
        format!("a shared library for {}", std::env::consts::ARCH)
    } else if let Some(missing) = EXPORTED.iter().find(|name| !is_ours(name)) {
        format!("bypassctl's {LIBRARY}, which exports {}", String::from_utf8_lossy(missing).trim_matches('\0'))
    } else {
        return Ok(library);
    };
    Err(anyhow!("{} is not {expected}; leave --library out, or name the {LIBRARY} of this version", from.display()))
}

/// As a whole or not at all: an app that starts at this moment must not load half of it.
fn write(to: &Path, library: &[u8]) -> anyhow::Result<()> {
    let new = to.with_extension(format!("so.{}", std::process::id()));
    // Whoever shares the directory may have put a link there. What an earlier run left, whose number came again, may go.
    let create = || OpenOptions::new().write(true).create_new(true).open(&new);
    let mut file = create().or_else(|error| match error.kind() {
        ErrorKind::AlreadyExists => fs::remove_file(&new).and_then(|()| create()),
        _ => Err(error),
    })?;
    let written = file
        .write_all(library)
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o444)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, to));
    // Half of it serves nobody.
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(())
}
