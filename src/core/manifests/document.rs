//! Text to documents, and a document to a value: what no parser takes is told in words about the text.
//!
//! Invariant: no message quotes a value, which may be a secret; names of keys it may.

use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

/// Levels that are read.
const DEEPEST: usize = 100;
/// Values of one document.
const MOST_NODES: usize = 1_000_000;

/// One document's text, and the line of the whole on which it begins, from 0.
pub(super) struct Document<'a> {
    text: &'a str,
    line: usize,
}

impl Document<'_> {
    /// The value; and what is wrong with it all the same.
    pub(super) fn parse(&self) -> Result<(Value, Option<String>), String> {
        // A parser made for JSON is faster by far, and JSON that it refuses may be YAML still.
        if self.text.trim_start().starts_with('{')
            && let Ok(value) = serde_json::from_str(self.text)
        {
            return Ok((value, None));
        }
        let error = match self.yaml(DuplicateKeyPolicy::Error) {
            Ok(value) => return Ok((value, None)),
            Err(error) => error,
        };
        if let serde_saphyr::Error::DuplicateMappingKey { key, .. } = error.without_snippet()
            && let Ok(value) = self.yaml(DuplicateKeyPolicy::LastWins)
        {
            let key = key.as_ref().map(|key| format!("the key {key:?}")).unwrap_or("a key".to_owned());
            let remark = format!(
                "{key} stands twice in one mapping{}: kubectl takes the last one without a word, and so do these checks",
                self.at(&error)
            );
            return Ok((value, Some(remark)));
        }
        let template = self.text.contains("{{");
        let hint = if template { "; is it a template? Pipe `helm template` into `check files -`" } else { "" };
        Err(format!("it is no YAML: {}{}{hint}", words(error.without_snippet()), self.at(&error)))
    }

    fn yaml(&self, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, serde_saphyr::Error> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            duplicate_keys: duplicate_keys,
            // As kubectl reads them: a defaultMode of 0440 is one.
            legacy_octal_numbers: true,
            budget: serde_saphyr::budget! { max_depth: DEEPEST, max_nodes: MOST_NODES, max_events: 4_000_000 },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: 200_000,
                max_replay_stack_depth: 32,
                max_alias_expansions_per_anchor: 10_000,
            },
        };
        serde_saphyr::from_str_with_options(self.text, options)
    }

    /// Where, as an editor counts.
    fn at(&self, error: &serde_saphyr::Error) -> String {
        error.location().map_or_else(String::new, |at| {
            format!(" (line {}, column {})", at.line().saturating_add(self.line as u64), at.column())
        })
    }
}

fn words(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::Budget { .. } => {
            format!("it has more than {DEEPEST} levels or {MOST_NODES} values, which no manifest has")
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => "its aliases make more of it than any manifest has".to_owned(),
        Error::UnknownAnchor { .. } => "an alias names an anchor that is not there".to_owned(),
        Error::AliasError { error, .. } => words(error),
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => super::typed::without_values(msg),
        Error::Eof { .. } => "it ends too early".to_owned(),
        Error::DuplicateMappingKey { .. } => "a key stands twice in one mapping".to_owned(),
        _ => "its structure is broken".to_owned(),
    }
}

/// The documents of a text: `---` at the beginning of a line starts one, whatever came before (YAML 1.2.2, 9.1.2).
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut line, mut at) = (0, 0, 0);
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let rest =
            whole.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if rest.is_some() {
            documents.push(Document { text: &text[start..at], line });
            // What stands behind the dashes belongs to the new document.
            (start, line) = (at + "---".len(), number);
        }
        at += whole.len();
    }
    documents.push(Document { text: &text[start..], line });
    documents.retain(|document| !is_blank(document.text));
    documents
}

/// Nothing but comments, directives and the end of a document.
fn is_blank(text: &str) -> bool {
    let says_something = |line: &str| {
        let line = line.trim();
        !(line.is_empty() || line == "..." || line.starts_with('#') || line.starts_with('%'))
    };
    !text.lines().any(says_something)
}
