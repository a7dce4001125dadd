//! Preloaded into an app, takes its remoting connections to the sidecar over loopback, and tells the sidecar where they
//! were going: by a header of the PROXY protocol, version 2, in front of the app's bytes.
//!
//! Invariant: a connection to a remoting port elsewhere goes to the sidecar, with its destination told, or nowhere. The
//! library imports what every C library has (`environ`, `__errno_location`, memcpy and the like) and needs no other, it
//! allocates nothing, and nothing in it panics. See docs/decisions/0024-preloaded-library.md.
#![cfg_attr(not(test), no_std)]
// Tests do not export what would replace their own connect().
#![cfg_attr(test, allow(dead_code))]

mod address;
mod originals;
mod settings;
mod socket;
mod system;

#[cfg(not(test))]
pub mod exported;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    system::abort()
}
