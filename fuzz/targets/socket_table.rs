//! What /proc/net/tcp and tcp6 show.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = bypassctl::pod::fuzzing::socket_table(text);
});
