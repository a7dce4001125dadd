//! Credentials and where they come from, verification of peers, TLS's records, and a development CA.
//!
//! Invariant: a handshake that succeeds has passed [`crate::core::policy::authorize`].

mod asking;
mod buffer;
mod certificate;
mod credentials;
mod encode;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
pub mod issue;
mod origin;
mod path;
mod read;
mod record;
mod reload;
mod revocation;
mod serving;
mod session;
mod verify;
mod vouched;

pub use asking::{CertificateRequest, issued, request, trusting};
pub use buffer::Buffer;
pub use certificate::{CertificateFacts, timestamp};
pub use credentials::{CredentialError, Credentials};
pub use encode::{certificates_pem, pem};
pub use files::{Material, read_regular};
pub use origin::{Supplied, Supply};
pub use reload::{ReloadState, Reloader, Terms};
pub use revocation::RevocationFacts;
pub use serving::{Serving, living_roots};
pub use session::{Opened, Session};
pub use verify::{Untrusted, denial, denied, distrust, has_signed};
