//! `bypassctl shim`: brings the library that is preloaded into apps to a directory that their containers share.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::ShimArgs;
use crate::commands::{Failure, Outcome, print};
use crate::core::inject::LIBRARY;

/// Many times the library's size.
const LARGEST: u64 = 16 << 20;
/// Where `e_machine` stands, and the number of this processor's instruction set (elf(5)).
const MACHINE_AT: usize = 18;
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

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
    let is_elf = library.starts_with(b"\x7fELF\x02\x01");
    let machine = library.get(MACHINE_AT..MACHINE_AT + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    if is_elf && machine == Some(MACHINE) {
        return Ok(library);
    }
    Err(anyhow!("{} is no shared library for {}", from.display(), std::env::consts::ARCH))
}

/// As a whole or not at all: an app that starts at this moment must not load half of it.
fn write(to: &Path, library: &[u8]) -> anyhow::Result<()> {
    let new = to.with_extension(format!("so.{}", std::process::id()));
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(library)?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()?;
        fs::rename(&new, to)
    });
    // Half of it serves nobody.
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(())
}
