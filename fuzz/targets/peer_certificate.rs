//! A peer's certificate, in DER.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bypassctl::tls::fuzzing::peer_certificate(bytes));
