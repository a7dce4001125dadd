use super::*;

fn captured() -> Taker {
    Taker::Mesh("mesh of a, outbound".to_owned())
}

fn remoting(seen: [Taker; 2]) -> Route {
    Route {
        path: "a → b".to_owned(),
        port: 2552,
        purpose: "remoting",
        expected: [captured(), Taker::Agents],
        seen: Family::BOTH.map(|family| (family, seen.clone())).into(),
    }
}

#[test]
fn a_route_must_go_where_it_has_to_in_both_families_before_and_after() {
    assert!(remoting([captured(), Taker::Agents]).kept());
    for wrong in [[captured(), Taker::App], [captured(), captured()], [Taker::App, Taker::Agents]] {
        assert!(!remoting(wrong.clone()).kept(), "{wrong:?}");
    }
    let mut half = remoting([captured(), Taker::Agents]);
    half.seen.pop();
    assert!(!half.kept(), "a family that was not looked at is not kept");
}

fn wire() -> Wire {
    let remoting = Tally { packets: 90, data_packets: 61, bytes: 9000, tls_packets: 60, plaintext_packets: 0 };
    let plain = Tally { packets: 12, data_packets: 4, bytes: 900, tls_packets: 0, plaintext_packets: 2 };
    Wire { remoting, management: plain, intruders: plain }
}

#[test]
fn plaintext_of_remoting_breaks_the_promise() {
    assert!(wire().judge().kept);
    let mut leaking = wire();
    leaking.remoting.plaintext_packets = 1;
    assert!(!leaking.judge().kept);
}

#[test]
fn a_capture_that_saw_neither_tls_nor_the_controls_proves_nothing() {
    let mut idle = wire();
    idle.remoting = Tally::default();
    let mut blind = [wire(), wire()];
    blind[0].management.plaintext_packets = 0;
    blind[1].intruders.plaintext_packets = 0;
    for nothing in [idle].into_iter().chain(blind) {
        assert!(!nothing.judge().kept, "{nothing:?}");
    }
}

fn refusal() -> Refusal {
    Refusal {
        who: "a plaintext intruder",
        ended: Some("connection closed".to_owned()),
        reached_the_app: 0,
        must_say: vec!["plaintext".to_owned()],
        line: Some("WARN refused: plaintext from 10.77.0.13:4711".to_owned()),
    }
}

#[test]
fn an_intruder_is_refused_only_if_the_app_saw_nothing_and_the_log_says_why() {
    assert!(refusal().judge().kept);
    for broken in [
        Refusal { ended: None, ..refusal() },
        Refusal { reached_the_app: 1, ..refusal() },
        Refusal { line: None, ..refusal() },
        Refusal { line: Some("WARN refused".to_owned()), ..refusal() },
    ] {
        assert!(!broken.judge().kept, "{broken:?}");
    }
    let finding = Refusal { line: Some("WARN refused".to_owned()), ..refusal() }.judge();
    assert_eq!(finding.seen, "connection closed; the app saw nothing; the agent's line lacks plaintext");
}

fn rotation() -> Rotation {
    Rotation {
        serials: [Some("0a".to_owned()), Some("0b".to_owned())],
        serial_of_new: Some("0b".to_owned()),
        sent: Ok(100),
        received: 100,
        out_of_order: 0,
        closed: false,
    }
}

#[test]
fn a_rotation_must_renew_and_lose_nothing() {
    assert!(rotation().judge().kept);
    for broken in [
        Rotation { serials: [Some("0a".to_owned()), Some("0a".to_owned())], ..rotation() },
        Rotation { serials: [None, None], serial_of_new: None, ..rotation() },
        Rotation { serial_of_new: Some("0a".to_owned()), ..rotation() },
        Rotation { sent: Err("broken pipe".to_owned()), ..rotation() },
        Rotation { received: 99, ..rotation() },
        Rotation { sent: Ok(0), received: 0, ..rotation() },
        Rotation { out_of_order: 1, ..rotation() },
        Rotation { closed: true, ..rotation() },
    ] {
        assert!(!broken.judge().kept, "{broken:?}");
    }
}

fn outage() -> Outage {
    let refused = |family| (family, Taker::Nobody(REFUSED.to_owned()), Duration::from_millis(1));
    Outage {
        without: Family::BOTH.map(refused).into(),
        reached_the_app: 0,
        restart: Some(Duration::from_millis(80)),
        after: Taker::Agents,
    }
}

#[test]
fn without_its_agent_a_pod_must_be_refused_at_once_and_sent_nowhere_else() {
    assert!(outage().judge().kept);
    let slow = (Family::V4, Taker::Nobody(REFUSED.to_owned()), Duration::from_secs(3));
    let leaked = (Family::V4, Taker::App, Duration::from_millis(1));
    for first in [slow, leaked, (Family::V4, captured(), Duration::from_millis(1))] {
        let mut broken = outage();
        broken.without[0] = first;
        assert!(!broken.judge().kept, "{broken:?}");
    }
    for broken in [
        Outage { reached_the_app: 1, ..outage() },
        Outage { restart: None, ..outage() },
        Outage { after: captured(), ..outage() },
        Outage { without: Vec::new(), ..outage() },
    ] {
        assert!(!broken.judge().kept, "{broken:?}");
    }
}

#[test]
fn anything_left_breaks_the_promise_of_cleanup() {
    let clean = Cleanup {
        mesh_untouched: true,
        rules_restored: true,
        objects: 26,
        processes: 0,
        namespaces: 0,
        scratch: false,
    };
    assert!(clean.judge().kept);
    for broken in [
        Cleanup { mesh_untouched: false, ..clean.clone() },
        Cleanup { rules_restored: false, ..clean.clone() },
        Cleanup { objects: 0, ..clean.clone() },
        Cleanup { processes: 1, ..clean.clone() },
        Cleanup { namespaces: 1, ..clean.clone() },
        Cleanup { scratch: true, ..clean.clone() },
    ] {
        assert!(!broken.judge().kept, "{broken:?}");
    }
}

#[test]
fn long_serial_numbers_are_shortened_in_the_middle() {
    assert_eq!(short("01:23:45:67:89:ab:cd:ef:01:23"), "0123…0123");
    assert_eq!(short("0a"), "0a");
}
