//! Manifests that a stranger wrote: read, judged, printed, saved without secrets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bypassctl::commands::fuzzing::manifests(&String::from_utf8_lossy(bytes));
});
