"""Pairs of proxies: `near` takes plaintext and speaks mutual TLS 1.3 to `far`, which hands plaintext to the app.

A peer is a function from a Pair to {role: command}; it may set `pair.target`, where the load goes, and `pair.prepare`,
commands that run in each namespace before. All have two threads, AES-128-GCM and no resumption, as ours has none."""

import json
import os

NEAR, FAR = "127.0.0.1:7000", "10.99.0.2:7443"
APP, APP_FROM_OUTSIDE = "127.0.0.1:2552", "10.99.0.2:2552"
UID = "12552"


def direct(pair):
    pair.target = APP_FROM_OUTSIDE
    return {}


def _bypassctl(pair, near, far):
    def command(role, *more):
        files = ["--tls-cert", pair.crt(role), "--tls-key", pair.key(role), "--tls-ca", pair.ca, "--allow", "ca"]
        # One address of the load is a crowd, which the limits are there to refuse.
        limits = ["--max-connections", "9000", "--max-connections-per-peer", "9000", "--max-handshakes", "4096"]
        # The others log faults alone, too.
        log = ["--log-level", "warn"]
        return [*pair.run_as(UID), os.environ["BYPASSCTL_BIN"], *log, "proxy", *files, *limits, *more]
    return {"far": command("far", *far), "near": command("near", *near)}


def bypassctl(pair):
    """As the others: fixed targets, no rules."""
    near = ["--bind-address", "127.0.0.1", "--outbound-port", "7000", "--inbound-port", "7001", "--admin-port", "7002",
            "--outbound-target", FAR, "--inbound-target", "127.0.0.1:1"]
    far = ["--bind-address", "10.99.0.2", "--outbound-port", "7000", "--inbound-port", "7443", "--admin-port", "7002",
           "--outbound-target", "127.0.0.1:1", "--inbound-target", APP]
    return _bypassctl(pair, near, far)


def transparent(pair):
    """As in a pod: the rules of `bypassctl init` redirect the app's remoting."""
    pair.target = APP_FROM_OUTSIDE
    pair.ports = {"near": 15552, "far": 15553}
    pair.prepare = [[os.environ["BYPASSCTL_BIN"], "init", "--no-verify"]]
    return _bypassctl(pair, [], [])


def envoy(pair):
    def address(text):
        host, port = text.split(":")
        return {"socket_address": {"address": host, "port_value": int(port)}}

    def common(role, validation):
        return {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
                           **({"ecdh_curves": [pair.group]} if pair.group else {})},
            "tls_certificates": [{"certificate_chain": {"filename": pair.crt(role)},
                                  "private_key": {"filename": pair.key(role)}}],
            "validation_context": {"trusted_ca": {"filename": pair.ca}, **validation},
        }

    def config(name, listen, to, chain_tls, cluster_tls):
        tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
        proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
        chain = {"filters": [{"name": "tcp", "typed_config": {"@type": proxy, "stat_prefix": "t", "cluster": "c"}}]}
        endpoint = {"lb_endpoints": [{"endpoint": {"address": address(to)}}]}
        limits = {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000}]}
        cluster = {"name": "c", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": limits,
                   "load_assignment": {"cluster_name": "c", "endpoints": [endpoint]}}
        if chain_tls:
            chain["transport_socket"] = {
                "name": "tls", "typed_config": {"@type": tls + "DownstreamTlsContext", **chain_tls}}
        if cluster_tls:
            cluster["transport_socket"] = {
                "name": "tls", "typed_config": {"@type": tls + "UpstreamTlsContext", **cluster_tls}}
        listener = {"name": "l", "address": address(listen), "filter_chains": [chain],
                    "connection_balance_config": {"exact_balance": {}}}
        text = json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
        path = pair.write(name + ".json", text)
        return [os.environ["ENVOY_BIN"], "-c", path, "--concurrency", "2", "--disable-hot-restart", "-l", "error"]

    san = {"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "far.bench"}}]}
    near = {"sni": "far.bench", "max_session_keys": 0, "common_tls_context": common("near", san)}
    far = {"require_client_certificate": True, "disable_stateless_session_resumption": True,
           "common_tls_context": common("far", {})}
    return {"far": config("far", FAR, APP, far, None), "near": config("near", NEAR, FAR, None, near)}


def haproxy(pair):
    curves = f" curves {pair.group}" if pair.group else ""
    common = """global
 nbthread 2
 maxconn 9000
 tune.bufsize 65536
 ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
 ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
 mode tcp
 timeout connect 5s
 timeout client 1h
 timeout server 1h
"""
    verify = f"ca-file {pair.ca} verify required ssl-min-ver TLSv1.3"
    near = f"listen l\n bind {NEAR}\n server s {FAR} ssl crt {pair.pem('near')} {verify} verifyhost far.bench no-ssl-reuse\n"
    far = f"listen l\n bind {FAR} ssl crt {pair.pem('far')} {verify}{curves}\n server s {APP}\n"
    return {role: ["haproxy", "-db", "-q", "-f", pair.write(role + ".cfg", common + text)]
            for role, text in (("far", far), ("near", near))}


def nginx(pair):
    def config(role, server):
        text = f"""load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root; worker_processes 2; worker_rlimit_nofile 20000; daemon off; pid {pair.path(role + '.pid')};
error_log {pair.path(role + '.log')} error;
events {{ worker_connections 18000; }}
stream {{ tcp_nodelay on; proxy_timeout 1h; proxy_buffer_size 64k;
server {{ listen {server} }} }}
"""
        return ["nginx", "-c", pair.write(role + ".conf", text), "-e", pair.path(role + ".log")]

    suite = "conf_command Ciphersuites TLS_AES_128_GCM_SHA256"
    curve = f"ssl_ecdh_curve {pair.group};" if pair.group else ""
    near = (f"{NEAR} reuseport backlog=4096; proxy_pass {FAR}; proxy_ssl on; proxy_ssl_verify on;"
            f"proxy_ssl_certificate {pair.crt('near')}; proxy_ssl_certificate_key {pair.key('near')};"
            f"proxy_ssl_trusted_certificate {pair.ca}; proxy_ssl_name far.bench; proxy_ssl_server_name on;"
            f"proxy_ssl_protocols TLSv1.3; proxy_ssl_{suite}; proxy_ssl_session_reuse off;")
    far = (f"{FAR} ssl reuseport backlog=4096; proxy_pass {APP}; ssl_certificate {pair.crt('far')};"
           f"ssl_certificate_key {pair.key('far')}; ssl_client_certificate {pair.ca}; ssl_verify_client on;"
           f"ssl_protocols TLSv1.3; ssl_{suite}; {curve}")
    return {"far": config("far", far), "near": config("near", near)}


def stunnel(pair):
    curve = f"curves = {pair.group}\n" if pair.group else ""

    def config(role, text):
        common = f"""foreground = yes
pid =
debug = 3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[s]
sslVersionMin = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
verifyChain = yes
CAfile = {pair.ca}
sessionResume = no
cert = {pair.crt(role)}
key = {pair.key(role)}
{curve}{text}"""
        return ["stunnel4", pair.write(role + ".conf", common)]

    near = f"client = yes\naccept = {NEAR}\nconnect = {FAR}\ncheckHost = far.bench\nsni = far.bench\n"
    far = f"accept = {FAR}\nconnect = {APP}\nrequireCert = yes\n"
    return {"far": config("far", far), "near": config("near", near)}


PEERS = {peer.__name__: peer for peer in (direct, bypassctl, transparent, envoy, haproxy, nginx, stunnel)}
