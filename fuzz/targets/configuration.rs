//! A configuration file: the first byte chooses the command that it is for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((choice, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    bypassctl::commands::fuzzing::configuration(["init", "proxy", "explain"][usize::from(choice % 3)], text);
});
