//! What answers on the admin port, which may be anybody, and the status in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((_, body)) = bypassctl::pod::fuzzing::http_answer(bytes) {
        bypassctl::commands::fuzzing::status(&body);
    }
});
