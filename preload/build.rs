//! Links the library with nothing: it must load into programs of any C library, of any version.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-nostdlib", "-nostartfiles", "-Wl,-z,now", "-Wl,-z,relro"] {
        println!("cargo::rustc-link-arg-cdylib={argument}");
    }
}
