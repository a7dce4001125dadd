//! `bypassctl check files`: manifests, without a cluster.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::cli::CheckFilesArgs;
use crate::cluster::client::{ClientError, is_label};
use crate::commands::check::{judged, saved, tell};
use crate::commands::{Failure, Outcome};
use crate::core::checks;
use crate::core::config::ClusterPorts;
use crate::core::manifests::{MOST_BYTES, Named, Reader};

/// Files below the directories of one run.
const MOST_FILES: usize = 50_000;
/// All files together, in bytes.
const MOST_TOGETHER: usize = 512 << 20;
/// Directories within directories.
const DEEPEST: usize = 40;

pub(super) fn run(args: &CheckFilesArgs) -> Result<Outcome, Failure> {
    let ports = ClusterPorts::new(args.cluster.preset, &args.cluster.remoting_port, &args.cluster.management_port)
        .map_err(Failure::usage)?;
    if !is_label(&args.namespace) {
        return Err(Failure::usage(ClientError::Namespace(args.namespace.clone())));
    }
    let mut files = Files { reader: Reader::new(&args.namespace), count: 0, bytes: 0 };
    let mut failures = Vec::new();
    for path in &args.paths {
        if let Err(error) = files.argument(path) {
            let name = path.display();
            failures.push(format!("{name} cannot be read: {error}"));
            files.reader.unreadable(&name.to_string(), &format!("it cannot be read: {error}"));
        }
    }
    // Where it is one of many, the others are judged.
    if failures.len() == args.paths.len() {
        return Err(Failure::usage(anyhow::anyhow!(failures.join("; "))));
    }
    if files.reader.is_empty() {
        let named = args.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(anyhow::anyhow!("there is no manifest in {named}")));
    }
    let facts = files.reader.facts(OffsetDateTime::now_utc(), ports);
    if let Some(path) = &args.save_facts {
        saved::save(&facts, path)?;
    }
    tell(&judged(checks::run(&facts), &args.result), &args.result, args.all)
}

struct Files {
    reader: Reader,
    count: usize,
    bytes: usize,
}

impl Files {
    fn argument(&mut self, path: &Path) -> io::Result<()> {
        if path.as_os_str() == "-" {
            return self.read("standard input", io::stdin().lock(), Named::Itself);
        }
        if path.is_dir() {
            return self.directory(path, 0);
        }
        self.read(&path.display().to_string(), File::open(path)?, Named::Itself)
    }

    fn directory(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_manifest = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
            let place = path.display().to_string();
            // Links to directories may lead in circles; links to files are how a mounted ConfigMap looks.
            if path.is_dir() {
                if depth < DEEPEST && !path.is_symlink() && !name.starts_with('.') {
                    self.directory(&path, depth + 1)
                        .unwrap_or_else(|error| self.reader.unreadable(&place, &error.to_string()));
                }
                continue;
            }
            // A named pipe would wait for somebody to write.
            if !is_manifest || !path.is_file() || self.count >= MOST_FILES {
                continue;
            }
            let read = File::open(&path).and_then(|file| self.read(&place, file, Named::ByDirectory));
            read.unwrap_or_else(|error| self.reader.unreadable(&place, &error.to_string()));
        }
        Ok(())
    }

    fn read(&mut self, place: &str, from: impl Read, named: Named) -> io::Result<()> {
        self.count += 1;
        let left = MOST_TOGETHER.saturating_sub(self.bytes);
        if self.count == MOST_FILES || left == 0 {
            self.reader.unreadable(
                place,
                "more files, or bytes, than are read in one run; this one and the rest are left out",
            );
            self.count = MOST_FILES;
            return Ok(());
        }
        let mut bytes = Vec::new();
        let most = MOST_BYTES.min(left) as u64;
        from.take(most + 1).read_to_end(&mut bytes)?;
        self.bytes += bytes.len();
        if bytes.len() as u64 > most {
            self.reader.unreadable(place, &format!("it has more than {most} bytes, and was not read"));
            return Ok(());
        }
        match text(bytes) {
            Some(text) => self.reader.text(place, &text, named),
            None => self.reader.unreadable(place, "it is text neither of UTF-8 nor of UTF-16"),
        }
        Ok(())
    }
}

/// UTF-16 begins with its mark, as Windows' editors write it and kubectl reads it (YAML 1.2.2, 5.2).
fn text(bytes: Vec<u8>) -> Option<String> {
    let pair: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some([0xff, 0xfe]) => u16::from_le_bytes,
        Some([0xfe, 0xff]) => u16::from_be_bytes,
        _ => return String::from_utf8(bytes).ok(),
    };
    let (pairs, []) = bytes.as_chunks::<2>() else { return None };
    String::from_utf16(&pairs.iter().copied().map(pair).collect::<Vec<u16>>()).ok()
}
