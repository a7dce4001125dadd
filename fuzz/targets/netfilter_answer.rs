//! What the kernel answers about rules, sets and connections, and tells of their changes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bypassctl::netfilter::fuzzing::netfilter_answer(bytes));
