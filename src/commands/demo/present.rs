//! The demo on a screen, or in a file: 100 columns at most, colour on a terminal only.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};

use crate::demo::promise::{Finding, Route, Taker};
use crate::demo::story::Event;
use crate::demo::{HTTP_PORT, MANAGEMENT_PORT, PodDoor, REMOTING_PORT};
use crate::sandbox::privilege::Privilege;

const WIDEST: u16 = 100;
const KEPT: &str = "✔";
const BROKEN: &str = "✘";

/// What has been shown so far.
pub(super) struct Screen {
    start: Instant,
    colour: bool,
    findings: Vec<Finding>,
    broken_routes: usize,
    logs: Vec<String>,
}

impl Screen {
    pub(super) fn new(start: Instant) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = io::stdout().is_terminal() && !no_color;
        Self { start, colour, findings: Vec::new(), broken_routes: 0, logs: Vec::new() }
    }

    pub(super) fn title(&self, privilege: Privilege) {
        let how = match privilege {
            Privilege::Root => "as root",
            Privilege::UserNamespace => "rootless, in a user namespace",
        };
        self.print(&format!(
            "{} two pods under a mesh that captures everything, and an outsider; {how}\n\n",
            self.bold("bypassctl demo:")
        ));
    }

    pub(super) fn show(&mut self, event: Event) {
        match event {
            Event::Step(name, text) => self.step(name, &text),
            Event::Routes(routes) => {
                self.broken_routes = routes.iter().filter(|route| !route.kept()).count();
                let heading = self.bold("Where connections go");
                self.print(&format!("\n{heading}\n{}\n", self.routes(&routes)));
            }
            Event::Finding(finding, log) => {
                if !finding.kept {
                    self.logs = log;
                }
                self.findings.push(finding);
            }
        }
    }

    /// Prints what is still to be said; whether everything was as promised.
    pub(super) fn end(&self) -> bool {
        let heading = self.bold("What was promised, and what was seen");
        let mut text = format!("\n{heading}\n{}\n", self.promises());
        let broken = self.findings.iter().filter(|finding| !finding.kept).count() + self.broken_routes;
        for finding in self.findings.iter().filter(|finding| !finding.kept) {
            let _ = write!(
                text,
                "\n{} {}\n  expected: {}\n  seen:     {}\n",
                self.painted(BROKEN, Color::Red),
                finding.promise,
                finding.expected,
                finding.seen
            );
        }
        for line in &self.logs {
            let _ = writeln!(text, "  | {line}");
        }
        let took = self.start.elapsed().as_secs_f64();
        let _ = if broken == 0 {
            writeln!(text, "\n{} everything as promised, in {took:.1} s", self.painted(KEPT, Color::Green))
        } else {
            writeln!(text, "\n{} {broken} not as promised, in {took:.1} s", self.painted(BROKEN, Color::Red))
        };
        self.print(&text);
        broken == 0
    }

    /// How to get into the pods, and what to do there.
    pub(super) fn doors(&self, doors: &[PodDoor], privilege: Privilege) {
        let me = std::process::id();
        let enter = |door: &PodDoor| match privilege {
            Privilege::Root => format!("nsenter --net={}", door.namespace),
            Privilege::UserNamespace => {
                format!("nsenter --user=/proc/{me}/ns/user --preserve-credentials --net={}", door.namespace)
            }
        };
        let mut text = format!("\n{}\n", self.bold("It stays up: try these in another terminal"));
        for door in doors {
            let agent = door.agent.map_or(String::new(), |pid| format!(", agent is process {pid}"));
            let _ = writeln!(text, "  # pod {}: {}{agent}\n  {}", door.name, door.addresses.join(" "), enter(door));
        }
        if let [a, b, outside] = doors {
            let [from_a, from_outside] = [a, outside].map(enter);
            let address = &b.addresses[0];
            let dial =
                |port, say: &str| format!("bash -c 'exec 3<>/dev/tcp/{address}/{port}; printf \"{say}\" >&3; cat <&3'");
            let get = r"GET /cluster/members/ HTTP/1.0\r\n\r\n";
            let _ = write!(
                text,
                "  # captured by the mesh\n  {from_a} {}\n  # straight past it\n  {from_a} {}\n  # refused by the agent\n  \
                 {from_outside} {}\n  # what the agent knows\n  {from_a} bash -c 'exec 3<>/dev/tcp/127.0.0.1/15550; \
                 printf \"GET /status HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'\n",
                dial(HTTP_PORT, get),
                dial(MANAGEMENT_PORT, get),
                dial(REMOTING_PORT, r"AKKA\x02"),
            );
        }
        let _ = write!(text, "\nEnter or Ctrl-C takes it down. ");
        self.print(&text);
    }

    fn step(&self, name: &str, text: &str) {
        let took = format!("{:5.2} s", self.start.elapsed().as_secs_f64());
        self.print(&format!("{} {} {text}\n", self.dim(&took), self.bold(&format!("{name:<6}"))));
    }

    fn routes(&self, routes: &[Route]) -> Table {
        let mut table = self.table();
        let names = ["", "from → to", "port", "family", "the mesh alone", "with bypassctl"];
        table.set_header(names.map(|name| self.heading(name)));
        for route in routes {
            let port = format!("{} {}", route.port, route.purpose);
            // What stays with the mesh, and what gets past it.
            let good = if route.expected[0] == route.expected[1] { Color::Yellow } else { Color::Green };
            for (families, takers) in by_family(route) {
                let [alone, bypassed] = &takers;
                let colour = |taker, expected, good| if taker == expected { good } else { Color::Red };
                table.add_row([
                    self.verdict(takers == route.expected),
                    Cell::new(&route.path),
                    Cell::new(&port),
                    Cell::new(families),
                    self.cell(&alone.to_string(), colour(alone, &route.expected[0], Color::Yellow)),
                    self.cell(&bypassed.to_string(), colour(bypassed, &route.expected[1], good)),
                ]);
            }
        }
        table
    }

    fn promises(&self) -> Table {
        let mut table = self.table();
        table.set_header(["", "promise", "seen"].map(|name| self.heading(name)));
        for finding in &self.findings {
            let quote = finding.quote.as_ref().map_or(String::new(), |line| format!("\n{}", quotation(line)));
            let seen = format!("{}{quote}", finding.seen);
            table.add_row([self.verdict(finding.kept), Cell::new(&finding.promise), Cell::new(seen)]);
        }
        table.set_constraints([
            ColumnConstraint::ContentWidth,
            ColumnConstraint::Absolute(Width::Fixed(26)),
            ColumnConstraint::LowerBoundary(Width::Percentage(60)),
        ]);
        table
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        let width = table.width().map_or(WIDEST, |width| width.min(WIDEST));
        // Colour is decided here, once, with NO_COLOR.
        table.force_no_tty().set_width(width);
        if self.colour {
            table.enforce_styling();
        }
        table
    }

    fn heading(&self, name: &str) -> Cell {
        Cell::new(name).add_attribute(Attribute::Bold)
    }

    fn verdict(&self, kept: bool) -> Cell {
        if kept { self.cell(KEPT, Color::Green) } else { self.cell(BROKEN, Color::Red) }
    }

    fn cell(&self, text: &str, colour: Color) -> Cell {
        Cell::new(text).fg(colour)
    }

    fn bold(&self, text: &str) -> String {
        self.escaped(text, "1")
    }

    fn dim(&self, text: &str) -> String {
        self.escaped(text, "2")
    }

    fn painted(&self, text: &str, colour: Color) -> String {
        self.escaped(text, if colour == Color::Green { "32" } else { "31" })
    }

    fn escaped(&self, text: &str, code: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: &str) {
        let mut out = io::stdout().lock();
        // A reader that has gone away, such as `head`, takes nothing from the promises.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Who took a route's connections, in one row if both families agree.
fn by_family(route: &Route) -> Vec<(String, [Taker; 2])> {
    let rows = route.seen.iter().map(|(family, takers)| (family.name().to_owned(), takers.clone()));
    match rows.collect::<Vec<_>>().as_slice() {
        [(first, same), (second, takers)] if same == takers => vec![(format!("{first}, {second}"), same.clone())],
        rows => rows.to_vec(),
    }
}

/// A log line as far as it says who and why: without the module's name, and without what it says twice at its end.
fn quotation(line: &str) -> String {
    let line = line.replacen("bypassctl::proxy::connection: ", "", 1);
    let end = [" bytes_in=", " hint="].into_iter().chain(line.contains(" allowed=").then_some(" detail="));
    match end.filter_map(|key| line.find(key)).min() {
        Some(end) => format!("“{} …”", &line[..end]),
        None => format!("“{line}”"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ruleset::Family;

    fn route(v6: Taker) -> Route {
        let captured = Taker::Mesh("mesh of a, outbound".to_owned());
        Route {
            path: "a → b".to_owned(),
            port: 2552,
            purpose: "remoting",
            expected: [captured.clone(), Taker::Agents],
            seen: vec![(Family::V4, [captured.clone(), Taker::Agents]), (Family::V6, [captured, v6])],
        }
    }

    #[test]
    fn families_that_agree_share_a_row_and_others_do_not() {
        assert_eq!(by_family(&route(Taker::Agents))[0].0, "IPv4, IPv6");
        assert_eq!(by_family(&route(Taker::App)).len(), 2);
    }

    #[test]
    fn a_quotation_ends_before_it_repeats_itself() {
        let line = "WARN bypassctl::proxy::connection: refused identity=x allowed=y detail=\"x, not y\" bytes_in=0";
        assert_eq!(quotation(line), "“WARN refused identity=x allowed=y …”");
        assert_eq!(quotation("WARN refused"), "“WARN refused”");
    }

    #[test]
    fn a_broken_promise_is_not_everything_as_promised() {
        let mut screen = Screen::new(Instant::now());
        assert!(screen.end());
        screen.show(Event::Routes(vec![route(Taker::App)]));
        assert!(!screen.end());
    }
}
