//! Files of facts.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;

use crate::commands::Failure;
use crate::core::facts::Facts;
use crate::core::saved;

/// Writes facts without secrets, for their owner's eyes alone; a file that is there is replaced.
pub(in crate::commands) fn save(facts: &Facts, path: &Path) -> Result<(), Failure> {
    let text = saved::to_text(facts)?;
    let is_special = std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file() && !there.is_symlink());
    if is_special || path == Path::new("-") {
        let path = path.display();
        return Err(Failure::usage(anyhow::anyhow!("facts are saved to a file of their own, and {path} is none")));
    }
    // A file of old facts, or somebody's link, would keep its own mode; and what is there stays until the new one is whole.
    let beside = path.with_added_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
            // Half of it is of no use to anybody.
            let _ = std::fs::remove_file(&beside);
        })
    };
    Ok(write().with_context(|| format!("the facts cannot be written to {}", path.display()))?)
}

/// Reads facts that [`save`] wrote; `-` is standard input.
pub(in crate::commands) fn load(path: &Path) -> Result<Facts, Failure> {
    let name = path.display();
    if path == Path::new("-") {
        return read("standard input", std::io::stdin().lock());
    }
    let file = File::open(path).map_err(|error| Failure::usage(anyhow::anyhow!("{name} cannot be opened: {error}")))?;
    read(&name.to_string(), file)
}

fn read(name: &str, from: impl Read) -> Result<Facts, Failure> {
    let mut text = String::new();
    from.take(saved::MOST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(anyhow::anyhow!("{name} cannot be read: {error}")))?;
    if text.len() as u64 > saved::MOST_BYTES {
        return Err(Failure::usage(anyhow::anyhow!(
            "{name} has more than {} bytes, and is not read",
            saved::MOST_BYTES
        )));
    }
    saved::from_text(&text).map_err(|error| Failure::usage(anyhow::anyhow!("{name}: {error}")))
}
