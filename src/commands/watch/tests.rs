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

/// A cluster of a Deployment, one of whose pods is unreachable.
fn carts() -> Overview {
    let mut overview = overview();
    for (state, name) in overview.nodes.iter_mut().zip(["x2x7k", "9pq4z", "lm2nn"]) {
        state.pod = Some(format!("cart-7d9c6b5f4d-{name}"));
        state.host = Some("ip-10-0-12-34.eu-central-1.compute.internal".to_owned());
        state.roles = vec!["shopping-cart".to_owned(), "projections".to_owned()];
        state.ready = Some(true);
    }
    for path in &mut overview.paths {
        (path.from, path.to) = ("cart-7d9c6b5f4d-x2x7k".to_owned(), "cart-7d9c6b5f4d-9pq4z".to_owned());
    }
    overview.problems = vec!["cart-7d9c6b5f4d-9pq4z is unreachable from akka://cart@10.0.0.7:2552".to_owned()];
    overview
}

#[test]
fn eighty_columns_show_whole_names_who_is_unreachable_and_what_is_plaintext() {
    let text = drawn(&Screen { overview: Some(carts()), ..Screen::default() }, 80, 24);
    for name in ["x2x7k", "lm2nn"] {
        assert!(line(&text, &format!("│cart-7d9c6b5f4d-{name}")).contains("yes"), "{text}");
    }
    assert!(line(&text, "│cart-7d9c6b5f4d-9pq4z").contains("Up, unreachable"), "{text}");
    assert!(text.contains("PLAINTEXT") && text.contains("TLS 1.3"), "{text}");
    line(&text, "✗ cart-7d9c6b5f4d-9pq4z is unreachable from");
    line(&text, "q ends");
}

#[test]
fn twenty_columns_and_five_lines_show_which_pod_is_how() {
    let text = drawn(&Screen { overview: Some(carts()), ..Screen::default() }, 20, 5);
    assert!(line(&text, "-x2x7k").contains("Up"), "{text}");
    assert!(line(&text, "-9pq4z").contains("Up, unr"), "{text}");
    assert!(line(&text, "-lm2nn").contains("Leaving"), "{text}");
    line(&text, "✗ cart-7d9c6b5f4d");
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let screen = Screen { overview: Some(overview()), failed: Some("x".repeat(500)), ..Screen::default() };
    for (width, height) in [(1, 1), (3, 2), (20, 4), (50, 14), (80, 13), (400, 100)] {
        drawn(&screen, width, height);
    }
}
