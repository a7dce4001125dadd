//! Whoever is asked for credentials over a connection, and how.
//!
//! Invariant: a source only hands over; [`Reloader`](crate::tls::Reloader) alone decides what is used, and what was good stays
//! in use whatever becomes of the source.

mod csr;
mod grpc;
mod istio;
mod pause;
mod renewal;
mod spiffe;

use tokio::sync::watch;

use crate::core::source::{Asked, Issuer};
use crate::sources::pause::Pause;
use crate::sources::renewal::Renewal;
use crate::tls::{Material, Supplied, Supply};

/// Why a source gave nothing. The same trouble always has the same words, so that it is logged once.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
    /// An answer, and a refusal.
    #[error("{0}")]
    Refused(String),
    /// An answer that nothing can be made of.
    #[error("its answer cannot be used: {0}")]
    Malformed(String),
    /// No answer in time.
    #[error("no answer within {0} s")]
    Slow(u64),
    /// The end of an answer that has none.
    #[error("it has ended the connection")]
    Ended,
}

/// Asks one issuer, again and again.
#[derive(Debug)]
pub struct Source {
    issuer: Issuer,
    outlet: Outlet,
}

impl Source {
    /// A source, and what follows it.
    #[must_use]
    pub fn new(asked: Asked) -> (Self, Supplied) {
        let Asked { issuer, federated, revoked } = asked;
        let from = issuer.to_string();
        let ca = match &issuer {
            Issuer::Spiffe(_) => None,
            Issuer::Istio(ca) => Some(ca.root.clone()),
            Issuer::Csr(signer) => Some(signer.ca.clone()),
        };
        let (sender, supply) = watch::channel(Supply::default());
        let outlet = Outlet { sender, from: from.clone() };
        (Self { issuer, outlet }, Supplied { supply, from, ca, federated, revoked })
    }

    /// Asks until it is dropped.
    pub async fn run(self) {
        let Self { issuer, outlet } = self;
        match issuer {
            Issuer::Spiffe(endpoint) => spiffe::run(&endpoint, &outlet).await,
            Issuer::Istio(ca) => {
                let mut pause = Pause::new();
                loop {
                    outlet.settle(istio::obtain(&ca).await, &ca.root, &mut pause).await;
                }
            }
            Issuer::Csr(signer) => {
                let mut pause = Pause::new();
                loop {
                    outlet.settle(csr::obtain(&signer, &outlet).await, &signer.ca, &mut pause).await;
                }
            }
        }
    }
}

/// Where a source hands over.
#[derive(Debug)]
struct Outlet {
    sender: watch::Sender<Supply>,
    from: String,
}

impl Outlet {
    fn give(&self, material: Material) {
        self.sender.send_replace(Supply { material: Some(material.into()), fault: None });
    }

    /// Tells what came of asking, and returns when it is time to ask again.
    async fn settle(
        &self,
        obtained: Result<(Material, Renewal), SourceError>,
        roots: &std::path::Path,
        pause: &mut Pause,
    ) {
        match obtained {
            Ok((material, renewal)) => {
                self.give(material);
                *pause = Pause::new();
                renewal.wait(roots).await;
            }
            Err(error) => {
                self.fail(&error);
                pause.wait().await;
            }
        }
    }

    /// What was given stays.
    fn fail(&self, error: &SourceError) {
        let fault = format!("{}: {error}", self.from);
        self.sender.send_if_modified(|supply| {
            let is_new = supply.fault.as_ref() != Some(&fault);
            supply.fault = Some(fault);
            is_new
        });
    }
}
