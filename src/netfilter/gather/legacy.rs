//! What legacy iptables has, if it has anything.

use std::io;
use std::process::Command;

use crate::core::explain::filters::Table;
use crate::core::explain::save;
use crate::core::ruleset::Family;

/// Where distributions put it; `PATH` may be empty in an image without a shell.
const FOLDERS: [&str; 4] = ["", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"];

/// Its tables.
///
/// # Errors
/// Why tables that are there cannot be read, in words.
pub(super) fn tables(family: Family) -> Result<Vec<Table>, String> {
    let (names, tool) = match family {
        Family::V4 => ("ip_tables_names", "iptables-legacy-save"),
        Family::V6 => ("ip6_tables_names", "ip6tables-legacy-save"),
    };
    let names = match std::fs::read_to_string(format!("/proc/thread-self/net/{names}")) {
        Ok(names) => names.split_whitespace().collect::<Vec<_>>().join(", "),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        // As any user but root; iptables has no other way either.
        Err(error) => return Err(format!("whether legacy iptables has tables is unknown: {error}")),
    };
    // The tool would make the tables that are missing, and mislead a mesh that looks for them.
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let unread = |reason: String| format!("legacy iptables has tables ({names}) that could not be read: {reason}");
    for folder in FOLDERS {
        match Command::new(format!("{folder}{tool}")).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unread(format!("{tool}: {error}"))),
            Ok(output) if output.status.success() => {
                return Ok(save::tables(&String::from_utf8_lossy(&output.stdout), family));
            }
            Ok(output) => return Err(unread(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
    Err(unread(format!("there is no {tool}; run explain where it is installed, in this network namespace")))
}
