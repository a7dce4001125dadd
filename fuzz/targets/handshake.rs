//! What a peer sends in place of a handshake.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bypassctl::tls::fuzzing::handshake(bytes));
