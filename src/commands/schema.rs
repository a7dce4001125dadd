//! `bypassctl schema`: JSON Schemas of what other programs read.

use crate::cli::{SchemaArgs, SchemaOf};
use crate::commands::{Failure, Outcome, print};

const CHECK: &str = include_str!("../../docs/schema/check.json");

pub(super) fn run(args: &SchemaArgs) -> Result<Outcome, Failure> {
    print(match args.of {
        SchemaOf::Check => CHECK,
    })?;
    Ok(Outcome::Done)
}
