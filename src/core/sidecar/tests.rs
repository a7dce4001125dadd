use super::*;
use time::macros::datetime;

fn raw() -> RawSidecar {
    RawSidecar {
        cluster: ClusterPorts::new(None, &[], &[]).unwrap(),
        agent: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
        path: TrafficPath::Rules,
        pod_ips: Vec::new(),
        mode: TlsMode::Strict,
        permissive_until: None,
        tls: None,
        allow: Vec::new(),
        tls_min_version: TlsVersion::default(),
        ca_overlap: Duration::ZERO,
        recycle_within: Duration::ZERO,
        peer_address: PeerAddress::Any,
        peer_namespaces: Vec::new(),
        bind_addresses: Vec::new(),
        outbound_target: None,
        inbound_target: None,
        limits: Limits {
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 1,
            max_connections: 1,
            max_connections_per_peer: 1,
            breaker: breaker::Policy { failures: 1, pause: Duration::from_secs(1) },
            peer_timeout: Duration::from_secs(45),
            half_close_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(25),
        },
        fault_injection: false,
        observe: Observe::default(),
    }
}

fn refusal(raw: RawSidecar) -> String {
    SidecarConfig::try_from(raw).expect_err("accepted").to_string()
}

#[test]
fn what_does_not_go_together_is_refused_with_the_option_to_change() {
    assert!(refusal(RawSidecar { allow: vec!["cart".to_owned()], ..raw() }).starts_with("--allow: \"cart\""));
    for date in ["tomorrow", "2026-02-30", "2026-1-1", "01.02.2026"] {
        let text = refusal(RawSidecar { permissive_until: Some(date.to_owned()), ..raw() });
        assert!(text.starts_with("--permissive-until") && text.contains(date), "{text}");
    }
    let own = Some("127.0.0.1:15553".parse().unwrap());
    assert!(refusal(RawSidecar { outbound_target: own, ..raw() }).contains("--outbound-target 127.0.0.1:15553"));
    let zero = Some("10.0.0.1:0".parse().unwrap());
    assert!(refusal(RawSidecar { inbound_target: zero, ..raw() }).contains("port 0"));
    let agent = AgentPorts { outbound: 2552, ..raw().agent };
    assert!(refusal(RawSidecar { agent, ..raw() }).contains("--remoting-port"));
    let peer_namespaces = vec!["shop".to_owned()];
    assert!(refusal(RawSidecar { peer_namespaces, ..raw() }).contains("--peer-address pod"));
}

#[test]
fn without_rules_the_sidecar_has_to_know_where_peers_dial() {
    let ports = |pod_ips: &[&str]| RawSidecar {
        path: TrafficPath::Ports,
        pod_ips: pod_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..raw()
    };
    let config = SidecarConfig::try_from(ports(&["10.0.0.7", "fd00::7"])).unwrap();
    assert!(!config.expects_rules() && config.expectation(12552).is_none());
    assert!(refusal(ports(&[])).contains("needs --pod-ip"));
    for bad in ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1"] {
        assert!(refusal(ports(&["10.0.0.7", bad])).contains(bad));
    }
    let outbound_target = Some("10.0.0.8:2552".parse().unwrap());
    assert!(refusal(RawSidecar { outbound_target, ..ports(&["10.0.0.7"]) }).contains("no meaning with --path ports"));
    let cluster = ClusterPorts::new(None, &["1-1000".parse().unwrap()], &[]).unwrap();
    assert!(refusal(RawSidecar { cluster, ..ports(&["10.0.0.7"]) }).contains("names 1000"));
}

#[test]
fn permissive_mode_is_overdue_the_day_after_its_last() {
    let until = Some("2026-03-01".to_owned());
    let config =
        SidecarConfig::try_from(RawSidecar { mode: TlsMode::Permissive, permissive_until: until.clone(), ..raw() })
            .unwrap();
    assert!(!config.is_permissive_overdue(datetime!(2026-03-01 23:59:59 UTC)));
    assert!(config.is_permissive_overdue(datetime!(2026-03-02 0:00 UTC)));
    let strict = SidecarConfig::try_from(RawSidecar { permissive_until: until, ..raw() }).unwrap();
    assert!(!strict.is_permissive_overdue(datetime!(2027-01-01 0:00 UTC)));
}

#[test]
fn a_files_own_option_beats_the_directory() {
    let files = TlsFiles::new(Some(Path::new("/d")), None, None, Some(Path::new("/roots.pem"))).unwrap();
    assert_eq!((files.key, files.ca), (PathBuf::from("/d/tls.key"), PathBuf::from("/roots.pem")));
    let error = TlsFiles::new(None, Some(Path::new("/c")), None, None).unwrap_err().to_string();
    assert!(error.starts_with("no private key: give --tls-dir or --tls-key"), "{error}");
}
