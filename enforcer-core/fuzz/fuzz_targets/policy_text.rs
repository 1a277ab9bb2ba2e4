//! Any bytes as a policy file: no panic, no endless work, and what is accepted says something.
//!
//! `cargo fuzz run -s none policy_text corpus/policy_text ../../examples/policies -- -dict=yaml.dict
//! -max_total_time=30` from `enforcer-core/fuzz`; it needs no nightly compiler.

#![no_main]

use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let parsed = parse("fuzz", &text);
    for error in &parsed.errors {
        assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty());
        assert!(error.to_string().len() < 100_000);
    }
    for policy in &parsed.policies {
        assert!(!policy.rules().is_empty() || !policy.gaps().is_empty());
        let subject = Subject { namespace: policy.id().namespace.clone(), ..Subject::default() };
        let resolved = Ruleset::resolve([policy], &Postures::default(), &subject);
        assert_eq!(resolved.ruleset.is_empty() && resolved.coverage.is_full(), !policy.selects(&subject));
    }
});
