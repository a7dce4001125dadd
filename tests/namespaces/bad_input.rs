//! Long lists of ports.

use bypassctl::core::ruleset::Family;

use crate::support::backend::{Backend, rules};
use crate::support::init::{init, must_init};
use crate::support::pod::Pod;
use crate::support::probe::{Answer, call};
use crate::support::roles::{APP, agent, app, peer};
use crate::support::setup::check_all;

/// Hundreds of ports and ranges are applied, proven and removed by every backend; each of them is redirected, and a port
/// between two of them is not. Quickly, too: reading long lists back once took seconds.
#[test]
fn hundreds_of_ports_work_with_every_backend() {
    let ranges = (0..150).map(|i| format!("{}-{}", 30_000 + 10 * i, 30_004 + 10 * i));
    let remoting = (0..300).map(|i| (20_000 + 3 * i).to_string()).chain(ranges).collect::<Vec<_>>().join(",");
    check_all(&Backend::ALL, |backend, cells| {
        let (pod, other) = Pod::pair();
        let start = std::time::Instant::now();
        let finished = init(&pod, &["--backend", backend.name(), "--remoting-port", &remoting]);
        cells.check(format!("{backend} exit code"), &finished.code, &0);
        cells.check(format!("{backend} proven"), &finished.stdout.matches("proven live").count(), &36);
        cells.check(format!("{backend} within 4 s"), &(start.elapsed().as_secs() < 4), &true);
        let listeners = [app(&pod), agent(&pod), peer(&other, &[20_001, 30_005])];
        for family in Family::BOTH {
            for (port, who) in [
                (20_000, "agent-outbound"),
                (20_897, "agent-outbound"),
                (31_494, "agent-outbound"),
                (20_001, "peer"),
                (30_005, "peer"),
            ] {
                let to = other.at(family, port);
                cells.check(format!("{backend} {to}"), &call(&pod, APP, to), &Answer::from(who, to));
            }
        }
        drop(listeners);
        must_init(&pod, &["--cleanup"]);
        cells.check(format!("{backend} after cleanup"), &rules(&pod), &String::new());
    });
}
