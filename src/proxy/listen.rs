//! The sidecar's listeners, bound before anything else runs, so that a taken port is the first and only failure.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::core::route::TrafficPath;
use crate::core::sidecar::SidecarConfig;
use crate::listen::{self, Unbound};
use crate::proxy::ProxyError;

/// All listeners.
#[derive(Debug)]
pub struct Listeners {
    /// Where the app's connections arrive: loopback alone, because that is where a redirect in OUTPUT lands,
    /// and because nobody from outside may use our certificate.
    pub(super) outbound: Vec<TcpListener>,
    /// Where peers' connections arrive.
    pub(super) inbound: Vec<TcpListener>,
    /// Admin HTTP.
    pub(super) admin: Vec<TcpListener>,
}

impl Listeners {
    /// Binds everything; needs to run in a tokio runtime.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub fn bind(config: &SidecarConfig) -> Result<Self, ProxyError> {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let open = |option, port| match config.bind_addresses.as_slice() {
            [] => bind_both(option, everywhere, port),
            addresses => addresses.iter().map(|address| bind_one(option, *address, port)).collect(),
        };
        let on_pod_addresses = || -> Result<Vec<_>, ProxyError> {
            let ports = || config.remoting.iter();
            let all = config.pod_ips.iter().flat_map(|address| ports().map(|port| (*address, port)));
            all.map(|(address, port)| bind_one("--pod-ip", address, port)).collect()
        };
        Ok(Self {
            outbound: bind_both("--outbound-port", loopback, config.outbound_port)?,
            inbound: match config.path {
                TrafficPath::Rules => open("--inbound-port", config.inbound_port)?,
                TrafficPath::Ports => on_pod_addresses()?,
            },
            admin: open("--admin-port", config.admin_port)?,
        })
    }
}

fn bind_both(option: &'static str, addresses: [IpAddr; 2], port: u16) -> Result<Vec<TcpListener>, ProxyError> {
    let [v4, v6] = addresses;
    listen::bind_both(v4, v6, port).map_err(|unbound| failed(option, unbound))
}

fn bind_one(option: &'static str, address: IpAddr, port: u16) -> Result<TcpListener, ProxyError> {
    listen::bind(SocketAddr::new(address, port)).map_err(|unbound| failed(option, unbound))
}

fn failed(option: &'static str, Unbound { address, source }: Unbound) -> ProxyError {
    ProxyError::Bind { option, address, advice: advice(option, &source), source }
}

fn advice(option: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse if option == "--pod-ip" => {
            "most likely the app listens there itself: it has to bind 127.0.0.1 (bind.hostname of Artery), and start after \
             the sidecar"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable if option == "--pod-ip" => "it is no address of this pod".to_owned(),
        io::ErrorKind::AddrInUse => format!(
            "another program listens there: stop it, or give another port with {option} (and the same to `bypassctl init`)"
        ),
        io::ErrorKind::PermissionDenied => format!("give a port above 1023 with {option}"),
        io::ErrorKind::AddrNotAvailable => "it is no address of this pod: see --bind-address".to_owned(),
        _ => format!("see {option}"),
    }
}
