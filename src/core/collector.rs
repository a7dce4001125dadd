//! Where a collector of traces is.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// OTLP over HTTP, where the URL names no port (OTLP specification, "OTLP/HTTP Default Port").
const DEFAULT_PORT: u16 = 4318;
/// Where traces go, where the URL names no path (OTLP specification, "OTLP/HTTP Request").
const DEFAULT_PATH: &str = "/v1/traces";

/// Why a text is no collector's URL.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CollectorError {
    /// TLS is left to a collector nearby.
    #[error("https is not there; name a collector of the pod or the node by http, which can go on by TLS")]
    Https,
    /// Its text is not repeated: it holds a secret.
    #[error("it holds a user's name or a password; name a collector of the pod or the node that asks for none")]
    UserInfo,
    /// Not the form.
    #[error("{0:?} is no endpoint: write http://HOST:PORT, and a path if it is not /v1/traces")]
    Form(String),
}

/// `http://HOST:PORT/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// With its leading slash.
    pub path: String,
}

impl CollectorUrl {
    /// Host and port as the `Host` header has them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

impl Serialize for CollectorUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for CollectorUrl {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let wrong = || CollectorError::Form(text.to_owned());
        if text.split('/').nth(2).unwrap_or(text).contains('@') {
            return Err(CollectorError::UserInfo);
        }
        if text.starts_with("https://") {
            return Err(CollectorError::Https);
        }
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or_else(wrong)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
            None if port.is_empty() => DEFAULT_PORT,
            None => return Err(wrong()),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let is_path = |c: char| c.is_ascii_graphic() && c != '#';
        if host.is_empty() || !host.chars().all(is_host) || !path.chars().all(is_path) {
            return Err(wrong());
        }
        let path = if matches!(path, "" | "/") { DEFAULT_PATH } else { path };
        Ok(Self { host: host.to_owned(), port, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_leaves_out_is_the_specifications() {
        for (text, full) in [
            ("http://collector", "http://collector:4318/v1/traces"),
            ("http://collector:80/", "http://collector:80/v1/traces"),
            ("http://10.0.0.1:4318/otlp/v1/traces?a=b", "http://10.0.0.1:4318/otlp/v1/traces?a=b"),
            ("http://[fd00::1]:4318", "http://[fd00::1]:4318/v1/traces"),
        ] {
            assert_eq!(text.parse::<CollectorUrl>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        let https = "https://collector:4318".parse::<CollectorUrl>().unwrap_err();
        assert!(https.to_string().contains("https is not there"), "{https}");
        for text in ["http://u@h", "http://u:hush@h:4318", "https://u:hush@h", "u:hush@h"] {
            let error = text.parse::<CollectorUrl>().unwrap_err();
            assert!(error == CollectorError::UserInfo && !error.to_string().contains("hush"), "{error}");
        }
        for text in [
            "",
            "collector:4318",
            "http://",
            "http://:1",
            "http://a:0",
            "http://a:b",
            "http://[::1",
            "http://[::1]x",
            "http://a/b c",
        ] {
            assert_eq!(text.parse::<CollectorUrl>(), Err(CollectorError::Form(text.to_owned())));
        }
    }
}
