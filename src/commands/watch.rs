//! `bypassctl status --watch` in a terminal: the state of a cluster, drawn anew whenever it was looked at.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table, Wrap};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::commands::cluster::{Question, is_final, runtime};
use crate::commands::overview::{look, outcome};
use crate::commands::{Failure, Outcome, chain};
use crate::core::overview::Overview;
use crate::core::render::overview::{NODE_COLUMNS, PATH_COLUMNS, cluster_line, header, node_rows, path_rows, verdict};

/// How long the one who draws may take to end.
const ENOUGH: Duration = Duration::from_secs(1);
/// How soon a key is answered.
const TICK: Duration = Duration::from_millis(100);

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
        let mut top: Vec<Line<'_>> = Vec::new();
        let mut bottom: Vec<Line<'_>> = Vec::new();
        if let Some(reason) = &self.failed {
            let style = Style::new().fg(Color::Red);
            bottom.push(Line::from(vec![Span::styled("✗ ", style), Span::raw(reason.clone())]));
        }
        let Some(overview) = &self.overview else {
            top.push(Line::raw("looking…"));
            top.extend(bottom);
            return frame.render_widget(Paragraph::new(top).wrap(Wrap { trim: false }), frame.area());
        };
        top.push(Line::styled(header(overview), Style::new().add_modifier(Modifier::BOLD)));
        top.extend(overview.clusters.iter().map(|cluster| Line::raw(cluster_line(overview, cluster))));
        bottom.extend(verdict(overview).into_iter().map(|(sign, _, text)| {
            let colour = match sign {
                "✗" => Color::Red,
                "✓" => Color::Green,
                _ => Color::DarkGray,
            };
            Line::from(vec![Span::styled(format!("{sign} "), Style::new().fg(colour)), Span::raw(text)])
        }));
        bottom.push(Line::styled("q ends, ↑ and ↓ scroll", Style::new().fg(Color::DarkGray)));
        let nodes = node_rows(overview);
        let paths = path_rows(overview);
        let height = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
        // Long lines of the verdict are wrapped: as many again are kept for that.
        let below = height(bottom.len() * 2).min(frame.area().height / 3).max(height(1));
        let [above, first, second, verdict] = Layout::vertical([
            Constraint::Length(height(top.len())),
            Constraint::Max(height(nodes.len() + 3)),
            Constraint::Fill(1),
            Constraint::Length(below),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(top), above);
        frame.render_widget(self.table("members", &NODE_COLUMNS, nodes), first);
        frame.render_widget(self.table("mTLS paths", &PATH_COLUMNS, paths), second);
        frame.render_widget(Paragraph::new(bottom).wrap(Wrap { trim: false }), verdict);
    }

    fn table<'a, const N: usize>(&self, title: &'a str, columns: &[&'a str; N], rows: Vec<[String; N]>) -> Table<'a> {
        let widest = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([columns[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<Constraint> =
            (0..N).map(|column| Constraint::Max(u16::try_from(widest(column)).unwrap_or(u16::MAX))).collect();
        let bad = |row: &[String; N]| {
            row.iter().any(|cell| {
                ["unreachable", "not joined", "Down", "PLAINTEXT", "not ready"].iter().any(|word| cell.contains(word))
            })
        };
        let rows = rows.into_iter().skip(self.skipped).map(|row| {
            let style = if bad(&row) { Style::new().fg(Color::Red) } else { Style::new() };
            Row::new(row).style(style)
        });
        let head = Row::new(columns.to_vec()).style(Style::new().add_modifier(Modifier::BOLD));
        Table::new(rows, widths).header(head).block(Block::bordered().title(title)).column_spacing(2)
    }
}

#[cfg(test)]
mod tests;
