//! `bypassctl explain`: reads everybody's rules, follows one packet through them, says where it ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, anyhow};

use crate::cli::{ExplainArgs, OutputFormat};
use crate::commands::{Failure, Outcome};
use crate::core::explain::answer::{Direction, Protocol, Question};
use crate::core::explain::{Route, Surroundings, explain};
use crate::core::render;
use crate::core::ruleset::Family;
use crate::netfilter::NetfilterError;
use crate::netfilter::gather::{self, Routes};
use crate::pod::listeners;

/// Whom an arriving packet is from, if nobody says (RFC 5737 and RFC 3849 documentation addresses).
const OUTSIDERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// This network namespace.
struct Here {
    routes: Routes,
    listeners: Option<Vec<SocketAddr>>,
}

impl Surroundings for Here {
    fn route(&self, to: IpAddr, mark: u32, uid: Option<u32>) -> Option<Route> {
        self.routes.route(to, mark, uid)
    }

    fn address_of(&self, interface: &str, family: Family) -> Option<IpAddr> {
        self.routes.address_of(interface, family)
    }

    fn listens(&self, address: IpAddr, port: u16) -> Option<bool> {
        let mut of_port = self.listeners.as_ref()?.iter().filter(|listener| listener.port() == port).peekable();
        if of_port.peek().is_none() {
            return Some(false);
        }
        let mut perhaps = false;
        for listener in of_port {
            let any = listener.ip().is_unspecified();
            match listener.ip() {
                ip if ip == address || any && ip.is_ipv4() == address.is_ipv4() => return Some(true),
                // Takes IPv4 too unless IPV6_V6ONLY is set, which /proc does not say.
                ip => perhaps |= any && ip.is_ipv6(),
            }
        }
        if perhaps { None } else { Some(false) }
    }
}

pub(super) fn run(args: &ExplainArgs) -> Result<Outcome, Failure> {
    let question = question(args)?;
    let filters = gather::read().map_err(|error| match error {
        NetfilterError::NotPermitted(_) => Failure::environment(error),
        _ => Failure::from(anyhow::Error::from(error).context("the rules could not be read")),
    })?;
    let routes = Routes::open().context("asking the kernel for routes")?;
    let here = Here { routes, listeners: listeners::listening().ok() };
    let answer = explain(&filters, &question, &here);
    match args.output {
        OutputFormat::Text => print!("{}", render::explain::text(&answer)),
        OutputFormat::Json => println!("{}", serde_json::to_string(&answer)?),
    }
    Ok(Outcome::Done)
}

fn question(args: &ExplainArgs) -> Result<Question, Failure> {
    let to = args.to.ip().to_canonical();
    if args.to.port() == 0 {
        return Err(Failure::usage(anyhow!(
            "--to {}: port 0 is no port that anybody dials; name the real one",
            args.to
        )));
    }
    let outsider = OUTSIDERS.into_iter().find(|address| address.is_ipv4() == to.is_ipv4());
    let from = args.from.or(outsider.filter(|_| args.arriving));
    if let Some(from) = from.filter(|from| from.is_ipv4() != to.is_ipv4()) {
        return Err(Failure::usage(anyhow!("--from {from} and --to {to} are of different families")));
    }
    let uid = args.from_uid.filter(|_| !args.arriving);
    Ok(Question {
        direction: if args.arriving { Direction::In } else { Direction::Out },
        protocol: if args.udp { Protocol::Udp } else { Protocol::Tcp },
        to,
        port: args.to.port(),
        from,
        uid,
        gid: args.from_gid.or(uid),
        mark: args.mark,
        source_ports: source_ports().unwrap_or((1, u16::MAX)),
    })
}

/// The ports that this pod's kernel chooses from, and, unless somebody has changed it there, a peer's.
fn source_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some((first.parse().ok()?, last.trim().parse().ok()?))
}
