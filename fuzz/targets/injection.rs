//! Manifests that the agent is added to and taken away from.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bypassctl::commands::fuzzing::injection(&String::from_utf8_lossy(bytes));
});
