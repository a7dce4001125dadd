//! HOCON and JSON, as far as plain settings are concerned.
//!
//! Invariant: what is not understood is told as unclear, from its path downwards, and never guessed at.

/// Objects within objects that are followed.
const DEEPEST: usize = 64;

/// What a file says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) enum Written {
    /// A value as it stands; of a list that it is one.
    Plain(String),
    /// `${NAME}` or `${?NAME}` alone, which may be a variable of the environment.
    Variable(String),
    /// Something that this does not read: the path, and all below it, may be set to anything.
    Unclear,
}

/// What a file says, in its order; an empty path stands for all of them.
pub(in crate::core) fn read(text: &str) -> Vec<(String, Written)> {
    let mut reader = Reader { rest: text, path: Vec::new(), found: Vec::new() };
    let understood = reader.file();
    let mut found = reader.found;
    if !understood {
        found.push((String::new(), Written::Unclear));
    }
    found
}

/// Lines of a Java properties file.
pub(in crate::core) fn properties(text: &str) -> Vec<(String, Written)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '!']));
    let pairs = lines.filter_map(|line| line.split_once(['=', ':']));
    pairs.map(|(path, value)| (path.trim().to_owned(), Written::Plain(value.trim().to_owned()))).collect()
}

/// The same as text, so that reading it again finds the same.
pub(in crate::core) fn written(path: &str, value: &Written) -> String {
    match value {
        Written::Plain(value) if value == LIST => format!("{path} = [0]\n"),
        Written::Plain(value) if !value.is_empty() && value.chars().all(is_simple) => format!("{path} = {value}\n"),
        Written::Plain(value) => {
            format!("{path} = \"{}\"\n", value.replace('\\', "\\\\").replace('"', "\\\""))
        }
        Written::Variable(name) => format!("{path} = ${{?{name}}}\n"),
        Written::Unclear if path.is_empty() => "include \"removed\"\n".to_owned(),
        Written::Unclear => format!("{path} {{ include \"removed\" }}\n"),
    }
}

/// Whether it needs no quotes.
fn is_simple(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')')
}

/// What stands for the elements of a list.
pub(in crate::core) const LIST: &str = "[…]";

struct Reader<'a> {
    rest: &'a str,
    path: Vec<String>,
    found: Vec<(String, Written)>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn eat(&mut self, text: &str) -> bool {
        let there = self.rest.strip_prefix(text);
        self.rest = there.unwrap_or(self.rest);
        there.is_some()
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(|c: char| c != '\n' && (c.is_whitespace() || c == '\u{feff}'));
    }

    /// Spaces, lines, commas and comments between members.
    fn gap(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == '\u{feff}');
            if !self.at_comment() {
                return;
            }
            self.comment();
        }
    }

    fn at_comment(&self) -> bool {
        self.rest.starts_with('#') || self.rest.starts_with("//")
    }

    fn comment(&mut self) {
        self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
    }

    fn add(&mut self, value: Written) {
        self.found.push((self.path.join("."), value));
    }

    /// Whether all of it was understood.
    fn file(&mut self) -> bool {
        self.gap();
        let braced = self.eat("{");
        let understood = self.members(braced, 0).is_some();
        self.gap();
        understood && self.rest.is_empty()
    }

    /// The members of an object up to its end; `None` where something was not understood.
    fn members(&mut self, braced: bool, depth: usize) -> Option<()> {
        loop {
            self.gap();
            match self.peek() {
                None => return (!braced).then_some(()),
                Some('}') => {
                    self.skip(1);
                    return braced.then_some(());
                }
                Some(_) => self.member(depth)?,
            }
        }
    }

    fn member(&mut self, depth: usize) -> Option<()> {
        let after = self.rest.strip_prefix("include");
        if after.is_some_and(|after| after.starts_with([' ', '\t']) && !after.trim_start().starts_with(['=', ':', '{']))
        {
            self.add(Written::Unclear);
            self.skip(self.rest.find(['\n', '}']).unwrap_or(self.rest.len()));
            return Some(());
        }
        let key = self.key()?;
        let before = self.path.len();
        self.path.extend(key);
        self.blanks();
        if !self.rest.starts_with('{') && !self.eat("+=") && !self.eat("=") && !self.eat(":") {
            return None;
        }
        // A value may stand on the next line.
        self.rest = self.rest.trim_start();
        self.value(depth)?;
        self.path.truncate(before);
        Some(())
    }

    /// The parts of a key; one that is quoted and has a dot is one part, quotes and all.
    fn key(&mut self) -> Option<Vec<String>> {
        let mut parts = vec![String::new()];
        loop {
            let c = self.peek()?;
            let last = parts.last_mut()?;
            match c {
                '"' => {
                    let part = self.quoted()?;
                    let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
                    *last += &if plain { part } else { format!("\"{}\"", part.replace(['"', '\\', '\n'], "")) };
                    continue;
                }
                '.' => parts.push(String::new()),
                '=' | ':' | '{' => break,
                '+' if self.rest.starts_with("+=") => break,
                '}' | '[' | ']' | ',' | '\n' | '$' | '#' | '`' | '^' | '?' | '!' | '@' | '*' | '&' | '\\' => {
                    return None;
                }
                c if c.is_control() && c != '\t' => return None,
                c => last.push(c),
            }
            self.skip(c.len_utf8());
        }
        let parts: Vec<String> = parts.into_iter().map(|part| part.trim().to_owned()).collect();
        parts.iter().all(|part| !part.is_empty()).then_some(parts)
    }

    /// A quoted text without its quotes.
    fn quoted(&mut self) -> Option<String> {
        if self.eat("\"\"\"") {
            let end = self.rest.find("\"\"\"")?;
            let text = self.rest[..end].to_owned();
            self.skip(end + 3);
            return Some(text);
        }
        let mut text = String::new();
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                '\n' => return None,
                '"' if !escaped => {
                    self.skip(at + 1);
                    return Some(text);
                }
                '\\' if !escaped => escaped = true,
                c => {
                    escaped = false;
                    text.push(c);
                }
            }
        }
        None
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let (mut text, mut names, mut others) = (String::new(), Vec::new(), false);
        let mut is_object = false;
        loop {
            if self.at_comment() {
                self.comment();
            }
            match self.peek() {
                None | Some('\n' | ',' | '}' | ']') => break,
                Some('{') => {
                    // Objects and substitutions together: what is written last wins, what went before is unclear.
                    if !names.is_empty() {
                        self.add(Written::Unclear);
                        names.clear();
                    }
                    if depth >= DEEPEST || !text.trim().is_empty() {
                        return None;
                    }
                    self.skip(1);
                    self.members(true, depth + 1)?;
                    is_object = true;
                }
                Some('[') => {
                    if self.list()? {
                        text += LIST;
                    }
                    others = true;
                }
                Some('$') => names.push(self.name()?),
                Some('"') => {
                    text += &self.quoted()?;
                    others = true;
                }
                Some(c) => {
                    self.skip(c.len_utf8());
                    text.push(c);
                    others |= !c.is_whitespace();
                }
            }
        }
        match (&names[..], others) {
            ([], _) if is_object && !others => {}
            ([name], false) if !is_object => self.add(Written::Variable(name.clone())),
            ([], true) if !is_object => self.add(Written::Plain(text.trim().to_owned())),
            ([], false) => return None,
            _ => self.add(Written::Unclear),
        }
        Some(())
    }

    /// What stands in `${…}`.
    fn name(&mut self) -> Option<String> {
        let after = self.rest.strip_prefix("${")?;
        let end = after.find('}')?;
        let name = after[..end].trim_start_matches('?').trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(plain) {
            return None;
        }
        self.rest = &after[end + 1..];
        Some(name.to_owned())
    }

    /// Passes a list by; whether there is anything in it.
    fn list(&mut self) -> Option<bool> {
        let (mut open, mut filled) = (0_usize, false);
        loop {
            if self.at_comment() {
                self.comment();
            }
            let c = self.peek()?;
            match c {
                '"' => {
                    self.quoted()?;
                    filled = true;
                    continue;
                }
                '[' | '{' => open += 1,
                ']' | '}' => open -= 1,
                c => filled |= !c.is_whitespace(),
            }
            self.skip(c.len_utf8());
            if open == 0 {
                return Some(filled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Vec<(String, String)> {
        let plain = |(path, value)| match value {
            Written::Plain(value) => (path, value),
            other => (path, format!("{other:?}")),
        };
        read(text).into_iter().map(plain).collect()
    }

    fn expected(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn lines_objects_and_json_say_the_same() {
        let all = expected(&[("akka.remote.artery.canonical.port", "25520"), ("akka.cluster.x", "off")]);
        for text in [
            "akka {\n  remote.artery { # here\n    canonical.port = 25520\n  }\n  cluster.x: \"off\"\n}\n",
            "akka { remote { artery.canonical { port = 25520 } }, cluster { x = off } } // end",
            "{\"akka\":{\"remote\":{\"artery\":{\"canonical\":{\"port\":25520}}},\"cluster\":{\"x\":\"off\"}}}",
            "akka.remote.artery.canonical.port=25520,akka.cluster.x=off",
            "\"akka\" = {\n remote : { artery\n.canonical.port = 25520 } }".replace('\n', "").as_str(),
        ] {
            let found = plain(text);
            assert_eq!(found[0], all[0], "{text}");
            assert!(found.len() == 1 || found == all, "{text}: {found:?}");
        }
    }

    #[test]
    fn substitutions_lists_and_long_texts_are_told_apart() {
        let found =
            read("a = ${?X}\nb = ${X}9\nc = [\"x}\", 1]\nd = []\ne = \"\"\"\na = 5\n\"\"\"\nf = ${base} { g = 1 }");
        let of = |path: &str| found.iter().find(|(one, _)| one == path).map(|(_, value)| value.clone()).unwrap();
        assert_eq!(of("a"), Written::Variable("X".to_owned()));
        assert_eq!((of("b"), of("f")), (Written::Unclear, Written::Unclear));
        assert_eq!((of("c"), of("d")), (Written::Plain(LIST.to_owned()), Written::Plain(String::new())));
        assert_eq!(of("f.g"), Written::Plain("1".to_owned()));
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn what_is_not_understood_leaves_everything_unclear() {
        for text in
            ["akka { \n\u{1} ${ ]]] \n", "a {", "a = 1 }", "a = {{ .Values.x }}", "just words", "a = \"open\nb = 1"]
        {
            assert_eq!(read(text).last(), Some(&(String::new(), Written::Unclear)), "{text}");
        }
        assert_eq!(read("x { include \"y\" }"), [("x".to_owned(), Written::Unclear)]);
        assert_eq!(read(&"a{".repeat(10_000)).last(), Some(&(String::new(), Written::Unclear)));
    }

    #[test]
    fn what_was_read_is_written_so_that_it_is_read_again() {
        let text = "a.b = \"x \\\" { y\"\nc = ${?D}\ne { include \"f\" }\n\"g.h\" = 1\ni = [1]\ninclude \"j\"";
        let again: String = read(text).iter().map(|(path, value)| written(path, value)).collect();
        assert_eq!(read(&again), read(text), "{again}");
    }
}
