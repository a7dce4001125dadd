//! What `iptables-save` prints: ours is found in it, and packets are followed through the whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bypassctl::netfilter::fuzzing::iptables_save(&String::from_utf8_lossy(bytes));
});
