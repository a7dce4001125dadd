//! A connection's first bytes, as they come from anybody: what they look like, and what is done about it.
#![no_main]

use bypassctl::core::route::{Route, TlsMode, inbound};
use bypassctl::core::wire::{ENOUGH, FirstBytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let seen = FirstBytes::of(bytes);
    let _ = seen.to_string();
    assert!(!matches!(inbound(TlsMode::Strict, seen), Route::Passthrough), "strict lets plaintext through");
    // What is decided by few bytes stays so, however many follow, and however they are cut into segments.
    for cut in 1..bytes.len().min(ENOUGH) {
        let first = &bytes[..cut];
        if !FirstBytes::is_undecided(first) {
            assert_eq!(FirstBytes::of(first) == FirstBytes::Tls, seen == FirstBytes::Tls, "{first:x?}");
        }
    }
});
