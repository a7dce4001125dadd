//! The log's filter, which can be changed while the sidecar runs.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Level;
use tracing_appender::non_blocking::ErrorCounter;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Why a text is no log filter.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// Nothing, which would silence everything but errors.
    #[error("it is empty: write error, warn, info, debug, trace, off, or directives such as bypassctl::proxy=debug")]
    Empty,
    /// A comma too many; what was meant behind it is not known.
    #[error("{0:?} has an empty part: between commas stands a level, or a directive such as bypassctl::proxy=debug")]
    EmptyPart(String),
    /// A directive without its level, which tracing would take for all levels.
    #[error("{0:?} has no level behind its =, or no module before it: write MODULE=LEVEL")]
    Half(String),
    /// tracing would take the word for a module, and show nothing but that module.
    #[error("{0:?} is no level (error, warn, info, debug, trace, off); if it names a module, write {0}=LEVEL")]
    NoLevel(String),
    /// A directive that does not parse.
    #[error("{0}")]
    Directive(#[from] tracing_subscriber::filter::ParseError),
}

/// Parses a filter: a level, or directives separated by commas.
///
/// # Errors
/// See [`LogFilterError`].
pub fn parse_filter(text: &str) -> Result<EnvFilter, LogFilterError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(LogFilterError::Empty);
    }
    // Commas within [span{field=value,…}] separate no directives, and such a directive is no bare word.
    if !text.contains('[') {
        let parts = || text.split(',').map(str::trim);
        if parts().any(str::is_empty) {
            return Err(LogFilterError::EmptyPart(text.to_owned()));
        }
        let half =
            |part: &&str| part.split_once('=').is_some_and(|(module, level)| module.is_empty() || level.is_empty());
        if let Some(part) = parts().find(half) {
            return Err(LogFilterError::Half(part.to_owned()));
        }
        let bare = |word: &&str| !word.contains(['=', ':']);
        let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        if let Some(word) = parts().filter(bare).find(|word| !is_level(word)) {
            return Err(LogFilterError::NoLevel(word.to_owned()));
        }
    }
    Ok(EnvFilter::try_new(text)?)
}

/// Lines that were lost on their way.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Nobody took them in time.
    pub queued: ErrorCounter,
    /// They could not be written, on a full disk for instance.
    pub unwritten: Arc<AtomicU64>,
}

/// Counts the lines that cannot be written.
#[derive(Debug)]
pub struct Counting<W> {
    /// Where they go.
    pub to: W,
    /// How many did not get there.
    pub unwritten: Arc<AtomicU64>,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever writes a line gives it up at the first error but this one.
        self.to.write(bytes).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.unwritten.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The filter of the running log, and how many of its lines were lost.
#[derive(Clone)]
pub struct LogFilter {
    filter: reload::Handle<EnvFilter, Registry>,
    lost: Option<Lost>,
}

impl LogFilter {
    /// The filter that a subscriber was made with.
    #[must_use]
    pub fn new(filter: reload::Handle<EnvFilter, Registry>, lost: Option<Lost>) -> Self {
        Self { filter, lost }
    }

    /// Lines that were lost because nobody took them, or that could not be written.
    pub(super) fn lost(&self) -> u64 {
        let lines = |lost: &Lost| lost.queued.dropped_lines() as u64 + lost.unwritten.load(Ordering::Relaxed);
        self.lost.as_ref().map_or(0, lines)
    }

    /// The filter in force.
    pub(super) fn shown(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_else(|error| error.to_string())
    }

    /// Changes the filter, and says so in the log: by the old filter's leave, or else by the new one's.
    pub(super) fn change(&self, text: &str) -> Result<(), LogFilterError> {
        let filter = parse_filter(text)?;
        let (from, to) = (self.shown(), filter.to_string());
        let say = || tracing::warn!(%from, %to, "the log filter is changed");
        let is_said = tracing::enabled!(Level::WARN);
        if is_said {
            say();
        }
        if let Err(error) = self.filter.reload(filter) {
            tracing::error!(%error, "the log filter could not be changed");
        } else if !is_said {
            say();
        }
        Ok(())
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.shown()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_filters() {
        for text in
            ["debug", "WARN", "off", "info,bypassctl::proxy=trace", "bypassctl::proxy", "rustls=debug", " info\n"]
        {
            parse_filter(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        }
        parse_filter("info,[connection{peer=1}]=debug").unwrap();
    }

    #[test]
    fn a_filter_that_would_not_do_what_was_meant_is_refused() {
        for (text, part) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("debgu", "\"debgu\" is no level"),
            ("info,rustls", "write rustls=LEVEL"),
            ("bypassctl=loud", "expected one of"),
            ("info,info=", "\"info=\" has no level"),
            ("=debug", "\"=debug\" has no level"),
            ("info,,rustls=debug", "has an empty part"),
            ("info,", "has an empty part"),
        ] {
            let error = parse_filter(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
