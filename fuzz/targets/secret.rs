//! The three files of a secret, with a line of five equals signs between them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut files = [&b""[..]; 3];
    let mut rest = bytes;
    for file in &mut files {
        let end = rest.windows(6).position(|window| window == b"=====\n");
        *file = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + 6..]);
    }
    let [certificate, key, ca] = files;
    bypassctl::tls::fuzzing::secret(certificate, key, ca);
});
