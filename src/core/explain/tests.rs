//! The evaluator's semantics, each as one sentence.

use std::net::IpAddr;

use super::answer::{Answer, Direction, EndKind, Protocol, Question};
use super::filters::*;
use super::{Route, Surroundings, explain, save};
use crate::core::ruleset::{Family, Hook};

/// A pod at 10.77.0.11, on whose every port somebody listens; mark 7 is routed to lo.
struct Pod;

impl Surroundings for Pod {
    fn route(&self, to: IpAddr, mark: u32, _uid: Option<u32>) -> Option<Route> {
        let local = to.is_loopback() || to == address("10.77.0.11") || mark == 7;
        let interface = if local { "lo" } else { "eth0" };
        Some(Route { local, interface: interface.to_owned(), source: Some(address("10.77.0.11")) })
    }

    fn address_of(&self, _interface: &str, _family: Family) -> Option<IpAddr> {
        Some(address("10.77.0.11"))
    }

    fn listens(&self, _address: IpAddr, port: u16) -> Option<bool> {
        Some(port != 9)
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn question(direction: Direction, to: &str) -> Question {
    let uid = (direction == Direction::Out).then_some(1000);
    let from = (direction == Direction::In).then(|| address("10.77.0.12"));
    let source_ports = (32768, 60999);
    Question {
        direction,
        protocol: Protocol::Tcp,
        to: address(to),
        port: 2552,
        from,
        uid,
        gid: uid,
        mark: 0,
        source_ports,
    }
}

/// Tables of their own, oldest first, each with one base chain.
fn filters(chains: &[(Kind, Hook, i32, Vec<Rule>)]) -> Filters {
    let table = |(i, (kind, hook, priority, rules)): (usize, &(Kind, Hook, i32, Vec<Rule>))| Table {
        keeper: Keeper::NfTables,
        family: None,
        name: format!("table{i}"),
        chains: vec![Chain {
            name: "base".to_owned(),
            base: Some(Base { kind: *kind, hook: *hook, priority: *priority, drops: false }),
            rules: rules.clone(),
        }],
    };
    Filters { tables: chains.iter().enumerate().map(table).collect(), unread: Vec::new() }
}

fn rule(steps: impl IntoIterator<Item = Step>) -> Rule {
    Rule { steps: steps.into_iter().collect(), ..Rule::default() }
}

fn does(statement: Statement) -> Rule {
    rule([Step::Do(statement)])
}

fn redirect(port: u16) -> Rule {
    does(Statement::Nat(Nat::Redirect(Some(port))))
}

fn set_mark(target: MarkOf, value: u32) -> Rule {
    does(Statement::Mark(SetMark::constant(target, value, u32::MAX)))
}

fn outgoing(filters: &Filters) -> Answer {
    explain(filters, &question(Direction::Out, "10.77.0.12"), &Pod)
}

fn ends(answer: &Answer) -> (EndKind, u16) {
    (answer.end.kind, answer.end.port)
}

#[test]
fn without_rules_a_packet_goes_straight() {
    let answer = outgoing(&Filters::default());
    assert_eq!(ends(&answer), (EndKind::Straight, 2552));
    assert!(answer.sure && answer.trail.is_empty() && answer.decided_by.is_none());
}

#[test]
fn accept_ends_only_its_own_chain() {
    let rules = [
        (Kind::Nat, Hook::Output, -150, vec![does(Statement::Accept)]),
        (Kind::Nat, Hook::Output, -100, vec![redirect(15001)]),
    ];
    assert_eq!(ends(&outgoing(&filters(&rules))), (EndKind::Redirected, 15001));
}

#[test]
fn a_binding_ends_the_hooks_nat_chains() {
    let null = does(Statement::Nat(Nat::Destination { address: None, port: None }));
    let rules = [(Kind::Nat, Hook::Output, -100, vec![redirect(15001)]), (Kind::Nat, Hook::Output, -199, vec![null])];
    let answer = outgoing(&filters(&rules));
    assert_eq!(ends(&answer), (EndKind::Straight, 2552));
    assert_eq!(answer.not_asked.len(), 1);
    assert_eq!(answer.decided_by.unwrap().table, "inet table1");
}

#[test]
fn what_comes_back_over_loopback_is_not_asked_again() {
    let rules = [(Kind::Nat, Hook::Output, -100, vec![]), (Kind::Nat, Hook::Prerouting, -100, vec![redirect(15006)])];
    let answer = explain(&filters(&rules), &question(Direction::Out, "10.77.0.11"), &Pod);
    assert_eq!(ends(&answer), (EndKind::Straight, 2552));
    let answer = explain(&filters(&rules), &question(Direction::In, "10.77.0.11"), &Pod);
    assert_eq!(ends(&answer), (EndKind::Redirected, 15006));
}

#[test]
fn a_filter_chain_behind_all_nat_still_drops() {
    let rules = [
        (Kind::Nat, Hook::Output, -100, vec![redirect(15001)]),
        (Kind::Filter, Hook::Input, 0, vec![does(Statement::Drop)]),
    ];
    assert_eq!(outgoing(&filters(&rules)).end.kind, EndKind::Dropped);
}

#[test]
fn a_dnat_to_every_port_is_a_binding_that_keeps_the_port() {
    let saved = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -m tcp --dport 2552 -j DNAT --to-destination :1-65535\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
    let filters = Filters { tables: save::tables(saved, Family::V4), unread: Vec::new() };
    let answer = outgoing(&filters);
    assert_eq!((ends(&answer), answer.sure), ((EndKind::Straight, 2552), true), "{answer:?}");
}

#[test]
fn a_source_port_is_one_of_those_that_kernels_choose() {
    for (ranges, end, sure) in [
        (vec![(8558, 8558), (15550, 15550)], EndKind::Straight, true),
        (vec![(1024, 65535)], EndKind::Refused, true),
        (vec![(40000, 40000)], EndKind::Straight, false),
    ] {
        let refused = rule([
            Step::If(Condition::in_ranges(Field::SourcePort, ranges.clone(), false)),
            Step::Do(Statement::Reject),
        ]);
        let answer = outgoing(&filters(&[(Kind::Filter, Hook::Output, 0, vec![refused])]));
        assert_eq!((answer.end.kind, answer.sure), (end, sure), "{ranges:?}");
    }
}

#[test]
fn a_chain_of_lower_priority_runs_first_whenever_it_was_made() {
    let marked = rule([Step::If(Condition::equal(Field::Mark, 5_u32, false)), Step::Do(Statement::Reject)]);
    for order in [[-10, 10], [10, -10]] {
        let rules = [
            (Kind::Filter, Hook::Output, order[0], vec![set_mark(MarkOf::Packet, 5)]),
            (Kind::Filter, Hook::Output, order[1], vec![marked.clone()]),
        ];
        let expected = if order[0] < order[1] { EndKind::Refused } else { EndKind::Straight };
        assert_eq!(outgoing(&filters(&rules)).end.kind, expected);
    }
}

#[test]
fn equal_priorities_of_several_tables_that_matter_make_it_unsure() {
    let rules =
        [(Kind::Nat, Hook::Output, -100, vec![redirect(1)]), (Kind::Nat, Hook::Output, -100, vec![redirect(2)])];
    let answer = outgoing(&filters(&rules));
    assert_eq!(ends(&answer), (EndKind::Redirected, 2), "the table made last");
    assert!(!answer.sure);
    let same = [rules[0].clone(), rules[0].clone()];
    assert!(outgoing(&filters(&same)).sure, "it does not matter");
}

#[test]
fn nat_chains_run_at_nats_own_place_whatever_their_priority() {
    let marked =
        rule([Step::If(Condition::equal(Field::Mark, 5_u32, false)), Step::Do(Statement::Nat(Nat::Redirect(Some(1))))]);
    let rules = [
        (Kind::Nat, Hook::Output, -199, vec![marked]),
        (Kind::Filter, Hook::Output, -150, vec![set_mark(MarkOf::Packet, 5)]),
    ];
    assert_eq!(ends(&outgoing(&filters(&rules))), (EndKind::Redirected, 1));
}

#[test]
fn an_untracked_connection_has_no_nat() {
    let rules = [
        (Kind::Filter, Hook::Output, -300, vec![does(Statement::NoTrack)]),
        (Kind::Nat, Hook::Output, -100, vec![redirect(15001)]),
    ];
    let answer = outgoing(&filters(&rules));
    assert_eq!(ends(&answer), (EndKind::Straight, 2552));
    assert_eq!(answer.not_asked[0].reason, "the connection is not tracked");
    let late = [(Kind::Filter, Hook::Output, -150, vec![does(Statement::NoTrack)]), rules[1].clone()];
    assert_eq!(ends(&outgoing(&filters(&late))), (EndKind::Redirected, 15001));
}

#[test]
fn marks_are_saved_restored_and_routed_by() {
    let save = does(Statement::Mark(SetMark::copy(MarkOf::Connection, u32::MAX, MarkOf::Packet, u32::MAX)));
    let restore = does(Statement::Mark(SetMark::copy(MarkOf::Packet, u32::MAX, MarkOf::Connection, u32::MAX)));
    let rules = [(
        Kind::Route,
        Hook::Output,
        -150,
        vec![set_mark(MarkOf::Packet, 7), save, set_mark(MarkOf::Packet, 0), restore],
    )];
    let answer = outgoing(&filters(&rules));
    assert_eq!(answer.end.interface.as_deref(), Some("lo"), "mark 7 is routed to lo");
    assert!(answer.sure);
}

#[test]
fn tproxy_has_the_packet_whatever_nat_says() {
    let tproxy = |port| Statement::Tproxy(Tproxy { address: None, port: Some(port), mark: (0, 0), ends: true });
    let nat = (Kind::Nat, Hook::Prerouting, -100, vec![redirect(15553)]);
    let rules = [(Kind::Filter, Hook::Prerouting, -150, vec![does(tproxy(15006))]), nat.clone()];
    let arriving = |rules: &[_]| explain(&filters(rules), &question(Direction::In, "10.77.0.11"), &Pod);
    let answer = arriving(&rules);
    assert_eq!(ends(&answer), (EndKind::Redirected, 15006));
    assert_eq!(answer.decided_by.unwrap().table, "inet table0");
    let nobody = [(Kind::Filter, Hook::Prerouting, -150, vec![does(tproxy(9))]), nat];
    assert_eq!(arriving(&nobody).end.kind, EndKind::Dropped, "nobody listens on port 9");
}

#[test]
fn what_is_unknown_is_said_unless_it_cannot_matter() {
    let unknown = || Step::If(Condition::Unknown("limit".to_owned()));
    let of_uid = |uid: u32| Step::If(Condition::equal(Field::Uid, uid, false));
    let asked = |steps: Vec<Step>| outgoing(&filters(&[(Kind::Filter, Hook::Output, 0, vec![rule(steps)])]));
    let answer = asked(vec![unknown(), of_uid(1000), Step::Do(Statement::Drop)]);
    assert!(!answer.sure && answer.unsure[0].contains("limit"), "{answer:?}");
    assert!(asked(vec![unknown(), of_uid(1), Step::Do(Statement::Drop)]).sure, "another condition does not hold");
    assert!(asked(vec![unknown(), of_uid(1000)]).sure, "the rule does nothing");
    let mark = Step::Do(Statement::Mark(SetMark::constant(MarkOf::Packet, 5, u32::MAX)));
    let marked = Step::If(Condition::equal(Field::Mark, 5_u32, false));
    assert!(!asked(vec![unknown(), mark, marked, Step::Do(Statement::Drop)]).sure, "it would hold by then");
    assert!(!asked(vec![Step::Do(Statement::Unknown("queue".to_owned()))]).sure);
}

#[test]
fn jump_comes_back_and_goto_does_not() {
    for (statement, expected) in [
        (Statement::Jump("other".to_owned()), EndKind::Dropped),
        (Statement::Goto("other".to_owned()), EndKind::Straight),
    ] {
        let mut filters = filters(&[(Kind::Filter, Hook::Output, 0, vec![does(statement), does(Statement::Drop)])]);
        let other = Chain { name: "other".to_owned(), base: None, rules: vec![does(Statement::Return)] };
        filters.tables[0].chains.push(other);
        assert_eq!(outgoing(&filters).end.kind, expected);
    }
}

#[test]
fn iptables_save_is_read_word_by_word() {
    let text = "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n\
        -A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1000 -j RETURN\n\
        -A ISTIO_OUTPUT -p tcp -m comment --comment \"-j not this\" -j REDIRECT --to-ports 15001\nCOMMIT\n";
    let filters = Filters { tables: save::tables(text, Family::V4), unread: Vec::new() };
    let answer = outgoing(&filters);
    assert_eq!(ends(&answer), (EndKind::Redirected, 15001), "{answer:?}");
    let decided = answer.decided_by.unwrap();
    assert_eq!((decided.owner, decided.comment.as_str(), decided.number), (Some("Istio"), "-j not this", 2));
    let own = explain(&filters, &question(Direction::Out, "10.77.0.11"), &Pod);
    assert_eq!(own.end.kind, EndKind::Straight, "it returns");
    let text = "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -m geoip --source-country XX -j ACCEPT\nCOMMIT\n";
    let unknown = outgoing(&Filters { tables: save::tables(text, Family::V4), unread: Vec::new() });
    assert!(!unknown.sure && unknown.end.kind == EndKind::Dropped);
}

#[test]
fn chains_that_branch_without_end_are_given_up_and_said_to_be() {
    let jumps = "-A A -m mark --mark 1 -j MARK --set-xmark 0x0/0x0\n-A A -j A\n".repeat(8);
    let text = format!("*filter\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n-A OUTPUT -j A\n{jumps}COMMIT\n");
    let filters = Filters { tables: save::tables(&text, Family::V4), unread: Vec::new() };
    let answer = explain(&filters, &question(Direction::Out, "10.77.0.12"), &Pod);
    assert!(!answer.sure && answer.unsure.iter().any(|doubt| doubt.contains("not followed")), "{:?}", answer.unsure);
}
