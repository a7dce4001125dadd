//! What is drawn, on a terminal in memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyEvent;
use time::macros::datetime;

use super::*;
use crate::core::overview::{NodeState, Path};

fn overview() -> Overview {
    let member = |pod: &str, status: &str, from: &[&str]| NodeState {
        pod: Some(pod.to_owned()),
        host: Some("node1".to_owned()),
        status: Some(status.to_owned()),
        unreachable_from: from.iter().map(|by| (*by).to_owned()).collect(),
        ..NodeState::default()
    };
    let path = |from: &str, to: &str, tls: Option<&str>| Path {
        from: from.to_owned(),
        to: to.to_owned(),
        to_identity: tls.map(|_| "spiffe://d/ns/shop/sa/shop".to_owned()),
        tls: tls.map(ToOwned::to_owned),
        plaintext: tls.is_none(),
        connections: 2,
        bytes: 2048,
        ..Path::default()
    };
    Overview {
        context: "test".to_owned(),
        namespace: "shop".to_owned(),
        taken: datetime!(2026-01-02 12:00 UTC),
        well: false,
        problems: vec!["shop-1 is unreachable from shop-0".to_owned()],
        notes: Vec::new(),
        clusters: Vec::new(),
        nodes: vec![member("shop-0", "Up", &[]), member("shop-1", "Up", &["shop-0"]), member("shop-2", "Leaving", &[])],
        paths: vec![path("shop-0", "shop-1", Some("TLS 1.3")), path("shop-0", "shop-2", None)],
    }
}

fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

fn line<'a>(text: &'a str, with: &str) -> &'a str {
    text.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("no {with:?} in:\n{text}"))
}

#[test]
fn members_who_is_unreachable_and_the_paths_are_drawn() {
    let text = drawn(&Screen { overview: Some(overview()), ..Screen::default() }, 140, 30);
    assert!(line(&text, "namespace shop").contains("context test"));
    assert!(line(&text, "│shop-1 ").contains("Up, unreachable"), "{text}");
    assert!(!line(&text, "│shop-0 ").contains("unreachable"), "{text}");
    assert!(line(&text, "│shop-2 ").contains("Leaving"), "{text}");
    assert!(line(&text, "TLS 1.3").contains("spiffe://d/ns/shop/sa/shop"), "{text}");
    assert!(text.contains("PLAINTEXT"), "{text}");
    line(&text, "✗ shop-1 is unreachable from shop-0");
    line(&text, "q ends");
}

#[test]
fn a_failed_look_keeps_what_was_seen_and_says_why() {
    let mut screen = Screen { failed: Some("the API server is gone".to_owned()), ..Screen::default() };
    assert!(drawn(&screen, 80, 20).contains("looking…"));
    screen.overview = Some(overview());
    let text = drawn(&screen, 140, 30);
    line(&text, "✗ the API server is gone");
    line(&text, "│shop-0 ");
}

#[test]
fn arrows_scroll_as_far_as_there_are_rows_and_q_ends() {
    let mut screen = Screen { overview: Some(overview()), ..Screen::default() };
    let press = |code| Event::Key(KeyEvent::new(code, KeyModifiers::NONE));
    for _ in 0..9 {
        assert!(!screen.take(&press(KeyCode::Down)));
    }
    let text = drawn(&screen, 140, 30);
    assert!(text.contains("│shop-2 ") && !text.contains("│shop-0 "), "{text}");
    assert!(screen.take(&press(KeyCode::Char('q'))));
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let screen = Screen { overview: Some(overview()), failed: Some("x".repeat(500)), ..Screen::default() };
    for (width, height) in [(1, 1), (3, 2), (20, 4), (400, 100)] {
        drawn(&screen, width, height);
    }
}
