//! Credentials, their verification, and a development CA.

pub mod issue;
