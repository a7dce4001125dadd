//! What the CNI plugin reads: its configuration, `CNI_ARGS`, configuration lists, pods' records.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bypassctl::commands::fuzzing::cni(&String::from_utf8_lossy(bytes));
});
