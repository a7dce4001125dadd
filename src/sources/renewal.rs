//! When a certificate that was asked for is asked for anew.

use std::path::Path;
use std::time::Duration;

use time::OffsetDateTime;

use crate::core::identity::SpiffeId;
use crate::sources::SourceError;
use crate::sources::pause::jittered;
use crate::tls::{CertificateRequest, issued, read_regular};

/// How often to look at the roots.
const PERIOD: Duration = Duration::from_secs(5);
/// What a certificate is left alone for at least: an authority that gives out ended ones is not to be flooded.
const LEAST: Duration = Duration::from_secs(5);

/// When to ask again.
#[derive(Debug)]
pub(super) struct Renewal {
    after: Duration,
    roots: Vec<u8>,
}

impl Renewal {
    /// At half of the time that the leaf has left, a tenth of that more or less, or once the roots are others.
    pub(super) fn of(
        chain: &[u8],
        request: &CertificateRequest,
        id: &SpiffeId,
        roots: Vec<u8>,
    ) -> Result<Self, SourceError> {
        let leaf = issued(chain, &request.key_pem, id).map_err(SourceError::Malformed)?;
        let left = Duration::try_from(leaf.not_after - OffsetDateTime::now_utc()).unwrap_or_default();
        Ok(Self { after: jittered(left / 2).max(LEAST), roots })
    }

    pub(super) async fn wait(self, roots: &Path) {
        let end = tokio::time::Instant::now() + self.after;
        loop {
            tokio::time::sleep_until(end.min(tokio::time::Instant::now() + PERIOD)).await;
            if tokio::time::Instant::now() >= end {
                return;
            }
            // Who has signed ours may count no longer.
            if read_regular(roots).is_ok_and(|now| now != self.roots) {
                tracing::info!("the authority's roots are others; asking for a new certificate");
                return;
            }
        }
    }
}
