//! What the kernel answers to a question for a route.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bypassctl::netfilter::fuzzing::route_answer(bytes));
