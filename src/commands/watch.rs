//! `bypassctl status --watch` in a terminal: the state of a cluster, drawn anew whenever it was looked at.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table, Wrap};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::commands::cluster::{Question, is_final, runtime};
use crate::commands::overview::{look, outcome};
use crate::commands::{Failure, Outcome, chain};
use crate::core::overview::Overview;
use crate::core::render::columns::{self, Column};
use crate::core::render::overview::{
    NODE_COLUMNS, PATH_COLUMNS, cluster_line, header, is_bad, node_rows, path_rows, verdict,
};

/// How long the one who draws may take to end.
const ENOUGH: Duration = Duration::from_secs(1);
/// How soon a key is answered.
const TICK: Duration = Duration::from_millis(100);

/// Lines and columns below which frames and paths are left out.
const FULL_HEIGHT: u16 = 14;
const FULL_WIDTH: u16 = 50;
/// Columns between two of a table.
const GAP: usize = 2;

/// What the one who looks tells the one who draws.
enum News {
    Seen(Box<Overview>),
    Failed(Failure),
    /// SIGTERM or SIGHUP.
    Stop,
}

/// What is drawn.
#[derive(Default)]
struct Screen {
    overview: Option<Overview>,
    /// Why the last look came to nothing.
    failed: Option<String>,
    /// Rows of the tables that are scrolled past.
    skipped: usize,
}

pub(super) fn run(question: Question, every: Duration) -> Result<Outcome, Failure> {
    let runtime = runtime()?;
    let (sender, news) = channel();
    // Ends with the process: a request that is under way is nobody's any more.
    std::thread::spawn(move || runtime.block_on(look_until_nobody_draws(&question, every, &sender)));
    let mut terminal = ratatui::try_init()?;
    let drawn = draw_until_told(&mut terminal, &news);
    ratatui::restore();
    drawn
}

async fn look_until_nobody_draws(question: &Question, every: Duration, sender: &Sender<News>) {
    let stopped = async {
        match (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
            (Ok(mut term), Ok(mut hup)) => tokio::select! { _ = term.recv() => {}, _ = hup.recv() => {} },
            _ => std::future::pending().await,
        }
    };
    let looking = async {
        loop {
            let next = Instant::now() + every;
            let told = match look(question).await {
                Ok(overview) => News::Seen(Box::new(overview)),
                Err(failure) => News::Failed(failure),
            };
            if sender.send(told).is_err() {
                return;
            }
            tokio::time::sleep_until(next).await;
        }
    };
    tokio::select! {
        () = looking => {}
        () = stopped => {
            // Who does not receive it has ended by itself.
            drop(sender.send(News::Stop));
            // Reading a terminal that has gone away never ends, and whoever draws waits for that.
            tokio::time::sleep(ENOUGH).await;
            ratatui::restore();
            std::process::exit(1);
        }
    }
}

fn draw_until_told(terminal: &mut ratatui::DefaultTerminal, news: &Receiver<News>) -> Result<Outcome, Failure> {
    let mut screen = Screen::default();
    let mut last = Outcome::NotWell;
    let mut changed = true;
    loop {
        if changed {
            terminal.draw(|frame| screen.draw(frame))?;
        }
        // A key, or another size of the terminal.
        changed = event::poll(TICK)?;
        if changed && screen.take(&event::read()?) {
            return Ok(last);
        }
        for told in news.try_iter() {
            changed = true;
            match told {
                News::Seen(overview) => {
                    last = outcome(&overview);
                    screen.overview = Some(*overview);
                    screen.failed = None;
                }
                News::Failed(failure) if is_final(&failure) => return Err(failure),
                News::Failed(failure) => {
                    last = Outcome::NotWell;
                    screen.failed = Some(chain(&failure.error));
                }
                News::Stop => return Ok(last),
            }
        }
    }
}

impl Screen {
    /// Whether it is to end.
    fn take(&mut self, event: &Event) -> bool {
        let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Down | KeyCode::Char('j') => self.skipped = (self.skipped + 1).min(self.rows()),
            KeyCode::Up | KeyCode::Char('k') => self.skipped = self.skipped.saturating_sub(1),
            _ => {}
        }
        false
    }

    /// The last row that can be scrolled to.
    fn rows(&self) -> usize {
        self.overview.as_ref().map_or(0, |seen| seen.nodes.len().max(seen.paths.len()).saturating_sub(1))
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let mut verdict_: Vec<Line<'_>> = Vec::new();
        if let Some(reason) = &self.failed {
            verdict_.push(signed("✗", reason.clone()));
        }
        let Some(overview) = &self.overview else {
            let lines = [vec![Line::raw("looking…")], verdict_].concat();
            return frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
        };
        verdict_.extend(verdict(overview).into_iter().map(|(sign, _, text)| signed(sign, text)));
        if area.height < FULL_HEIGHT || area.width < FULL_WIDTH {
            return self.draw_little(frame, overview, verdict_);
        }
        let mut top = vec![Line::styled(header(overview), Style::new().add_modifier(Modifier::BOLD))];
        let shown = overview.clusters.iter().take(usize::from(area.height));
        top.extend(shown.map(|cluster| Line::raw(cluster_line(overview, cluster))));
        let nodes = node_rows(overview);
        let paths = path_rows(overview);
        let height = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
        let above = wrapped(&top, area.width).min(area.height / 4);
        let below = wrapped(&verdict_, area.width).min(area.height / 3);
        let left = area.height.saturating_sub(above + below + 1);
        // Two lines of border and one of heads.
        let of_nodes = height(nodes.len() + 3).min(if paths.is_empty() { left } else { left.saturating_sub(left / 3) });
        let [above, first, second, below, keys] = Layout::vertical([
            Constraint::Length(above),
            Constraint::Length(of_nodes),
            Constraint::Fill(1),
            Constraint::Length(below),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(top).wrap(Wrap { trim: false }), above);
        let inside =
            |area: Rect| (usize::from(area.width).saturating_sub(2), usize::from(area.height).saturating_sub(3));
        let table = self.table(&NODE_COLUMNS, nodes, inside(first)).block(Block::bordered().title("members"));
        frame.render_widget(table, first);
        let table = self.table(&PATH_COLUMNS, paths, inside(second)).block(Block::bordered().title("mTLS paths"));
        frame.render_widget(table, second);
        frame.render_widget(Paragraph::new(verdict_).wrap(Wrap { trim: false }), below);
        frame.render_widget(Line::styled("q ends, ↑ and ↓ scroll", Style::new().fg(Color::DarkGray)), keys);
    }

    /// On a terminal that has no room for frames: the members, and below them the first that is wrong.
    fn draw_little(&self, frame: &mut Frame<'_>, overview: &Overview, mut verdict: Vec<Line<'_>>) {
        let area = frame.area();
        verdict.truncate(usize::from(area.height / 4).max(1));
        let below = u16::try_from(verdict.len()).unwrap_or(1);
        let [above, below] = Layout::vertical([Constraint::Fill(1), Constraint::Length(below)]).areas(area);
        let (width, height) = (usize::from(above.width), usize::from(above.height));
        // A line for the heads.
        let table = self.table(&NODE_COLUMNS, node_rows(overview), (width, height.saturating_sub(1)));
        frame.render_widget(table, above);
        frame.render_widget(Paragraph::new(verdict), below);
    }

    /// The rows that are to be seen in so many columns and lines.
    fn table<'a, const N: usize>(
        &self,
        columns: &[Column; N],
        rows: Vec<[String; N]>,
        (width, height): (usize, usize),
    ) -> Table<'a> {
        let rows: Vec<[String; N]> = rows.into_iter().skip(self.skipped).take(height).collect();
        let fitted = columns::fit(columns, &rows, width, GAP);
        let widths = fitted.widths.iter().map(|width| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
        let cells = rows.iter().zip(fitted.rows).map(|(whole, row)| {
            let style = if is_bad(whole) { Style::new().fg(Color::Red) } else { Style::new() };
            Row::new(row).style(style)
        });
        let head = Row::new(fitted.heads).style(Style::new().add_modifier(Modifier::BOLD));
        Table::new(cells, widths).header(head).column_spacing(u16::try_from(GAP).unwrap_or_default())
    }
}

fn signed(sign: &'static str, text: String) -> Line<'static> {
    let colour = match sign {
        "✗" => Color::Red,
        "✓" => Color::Green,
        _ => Color::DarkGray,
    };
    Line::from(vec![Span::styled(format!("{sign} "), Style::new().fg(colour)), Span::raw(text)])
}

/// Lines that these take when they are wrapped at words.
fn wrapped(lines: &[Line<'_>], width: u16) -> u16 {
    let width = usize::from(width.max(1));
    let of_line = |line: &Line<'_>| {
        let text: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
        let (mut count, mut at) = (1, 0);
        for word in text.split(' ').map(|word| word.chars().count()) {
            if at > 0 && at + 1 + word > width {
                (count, at) = (count + 1, 0);
            }
            at += word + usize::from(at > 0);
            // A word that is longer than a line.
            count += at.saturating_sub(1) / width;
            at -= at.saturating_sub(1) / width * width;
        }
        count
    };
    // More than any terminal has is not looked at.
    let count: usize = lines.iter().take(usize::from(u8::MAX)).map(of_line).sum();
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
