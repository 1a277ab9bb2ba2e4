//! `test`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const TEST_HELP: &str = "\
A test is a YAML document:
  apiVersion: test.nri-enforcer.io/v1
  kind: PolicyTest
  policies: [../policies]           # files and directories, relative to this file
  subject: { namespace: default, labels: { app: web }, container: main }
  postures: { file: block }         # of the node; as --posture of `explain`
  root: ../image                    # links in it are followed
  cases:
    - access: file:read:/etc/passwd # as --access of `explain`; with source, parent, args, tty, uid, owner
      expect: Block                 # or Allow, Audit
      policy: block-etc-passwd-read # who must have decided; DefaultPosture: no rule did
      rule: spec.file.matchPaths[0]

Exit codes:
  0  every case passes
  1  a case fails (or, with --strict, policies have gaps)
  2  bad usage, or a test or policy that cannot be read or has errors

Example:
  nri-enforcer test --output junit tests/ > report.xml";

/// `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Test files, or directories of them (*.yaml, *.yml, *.json); in directories, policies are passed over
    #[arg(required = true, value_name = "FILE_OR_DIR")]
    pub paths: Vec<PathBuf>,
    /// Gaps fail the tests: what is not enforced decides nothing
    #[arg(long)]
    pub strict: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TestOutput,
}

/// How `test` answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TestOutput {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For what shows the results of tests.
    Junit,
}
