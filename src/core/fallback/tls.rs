//! TLS of Artery's own, for nodes without an agent.

use std::fmt::Write as _;

/// Whose settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Framework {
    /// Akka 2.6
    Akka,
    /// Apache Pekko 1.x
    Pekko,
}

impl Framework {
    /// Where its settings begin, and where its classes do.
    const fn prefixes(self) -> (&'static str, &'static str) {
        match self {
            Self::Akka => ("akka", "akka"),
            Self::Pekko => ("pekko", "org.apache.pekko"),
        }
    }

    /// Paths and values that switch it on, with certificates in this directory: `tls.crt`, `tls.key`, `ca.crt`, read anew
    /// as they change.
    #[must_use]
    pub fn tls(self, dir: &str) -> Vec<(String, String)> {
        let (settings, classes) = self.prefixes();
        let artery = format!("{settings}.remote.artery");
        vec![
            (format!("{artery}.transport"), "tls-tcp".to_owned()),
            (
                format!("{artery}.ssl.ssl-engine-provider"),
                format!("{classes}.remote.artery.tcp.ssl.RotatingKeysSSLEngineProvider"),
            ),
            (format!("{artery}.ssl.rotating-keys-engine.secret-mount-point"), dir.to_owned()),
        ]
    }
}

/// For a configuration file, with what has to be so of the certificates.
#[must_use]
pub fn hocon(framework: Framework, dir: &str) -> String {
    let mut text = "# Artery's own TLS. Every node has it, or none: those without cannot talk to those with it, but for a sidecar.\n\
         # Certificates have RSA keys, one authority, and one DNS name that all nodes share; one with a SPIFFE ID alone is\n\
         # refused. bypassctl certs issue --ca-dir CA --dir DIR --key-type rsa-2048 --dns NAME makes such a one.\n"
        .to_owned();
    for (path, value) in framework.tls(dir) {
        let _ = writeln!(text, "{path} = {}", serde_json::Value::from(value));
    }
    text
}

/// As options of the JVM, on one line.
#[must_use]
pub fn options(framework: Framework, dir: &str) -> String {
    let options: Vec<String> =
        framework.tls(dir).into_iter().map(|(path, value)| format!("-D{path}={value}")).collect();
    options.join(" ") + "\n"
}
