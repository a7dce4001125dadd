//! What a peer sends behind the handshake, sealed or not.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bypassctl::tls::fuzzing::records(bytes));
