//! How the traffic secrets leave rustls.
//!
//! Invariant: they are told to the connection that they belong to and to nobody else, each of them once. Key updates are
//! derived from them; rustls would do it, but with what it keeps for that, and the peer's certificates with it, an idle
//! connection would cost half as much again.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use rustls::crypto::tls13::OkmBlock;
use rustls::{Error, KeyLog};

/// One connection's key log.
#[derive(Default)]
pub(in crate::tls) struct TrafficSecrets(Mutex<Told>);

#[derive(Default)]
struct Told {
    client: Option<OkmBlock>,
    server: Option<OkmBlock>,
}

/// Labels of the key log's format, "SSLKEYLOGFILE".
const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl TrafficSecrets {
    /// The client's and the server's.
    pub(in crate::tls) fn take(&self) -> Result<(OkmBlock, OkmBlock), Error> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = || Error::General("rustls has told no traffic secrets".to_owned());
        Ok((told.client.take().ok_or_else(untold)?, told.server.take().ok_or_else(untold)?))
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match label {
            CLIENT => told.client = Some(OkmBlock::new(secret)),
            SERVER => told.server = Some(OkmBlock::new(secret)),
            _ => {}
        }
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecrets")
    }
}
