//! What holds of every input; shared by the fuzz targets and by `tests/fuzz_smoke.rs`, which needs no fuzzer.

use enforcer_core::compile::bpf::{CompileError, compile};
use enforcer_core::pattern::Pattern;
use enforcer_core::policy::parse;
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::seccomp::{self, Arch, Base, Node};
use enforcer_core::subject::Subject;

/// Any bytes as a policy file: no panic, no endless work, what is accepted says something, and what is resolved
/// compiles. Answers what the input was like, for a corpus of different ones.
pub fn policy_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let parsed = parse("fuzz", &text);
    for error in &parsed.errors {
        assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty());
        assert!(error.to_string().len() < 100_000);
    }
    let mut like: Vec<String> = parsed.errors.iter().map(|error| without_names(&error.message)).collect();
    for policy in &parsed.policies {
        assert!(!policy.rules().is_empty() || !policy.gaps().is_empty(), "a policy that says nothing");
        let subject = Subject { namespace: policy.id().namespace.clone(), ..Subject::default() };
        let resolved = Ruleset::resolve([policy], &Postures::default(), &subject);
        assert_eq!(resolved.ruleset.is_empty() && resolved.coverage.is_full(), !policy.selects(&subject));
        match compile(&resolved.ruleset) {
            Ok(_) => {}
            Err(error @ CompileError::Unsupported { .. }) => panic!("{error}"),
            Err(_) => {}
        }
        like.extend(
            policy
                .rules()
                .iter()
                .map(|rule| format!("{} {:?}", rule.class, std::mem::discriminant(&rule.object))),
        );
        like.extend(policy.gaps().iter().map(|gap| gap.reason.to_string()));
    }
    for policy in &parsed.seccomp {
        assert!(!policy.rules().is_empty(), "a seccomp policy that says nothing");
        let node = Node { arch: Arch::X86_64, libseccomp: (2, 5, 4) };
        let profile = seccomp::compile(&[policy], &Base::RuntimeDefault([].into()), &node);
        let profile = profile.expect("the base is good");
        for entry in &profile.oci.syscalls {
            let mut indices: Vec<_> = entry.args.iter().map(|arg| arg.index).collect();
            indices.dedup();
            assert_eq!(indices.len(), entry.args.len(), "runtimes would take {entry:?} for alternatives");
        }
        like.push(format!("seccomp {} {}", policy.rules().len().min(4), profile.gaps.len().min(2)));
    }
    like.sort();
    like.dedup();
    like.truncate(4);
    like.join("\n")
}

/// Any bytes as an audit record: no panic, and what is read is about something of ours, and no longer than it may be.
pub fn audit(bytes: &[u8]) -> String {
    use enforcer_core::audit::{By, Denial, Object};
    let text = String::from_utf8_lossy(bytes);
    match Denial::parse(&text) {
        None => "of others".to_owned(),
        Some(Err(bad)) => bad.to_string(),
        Some(Ok(denial)) => {
            assert!(
                denial.comm.len() < 512 && denial.permissions.len() <= 512 && denial.operation.len() <= 512
            );
            let path = match &denial.object {
                Object::Path(path) | Object::File { name: path, .. } => path.len(),
                _ => 0,
            };
            assert!(path <= 8192, "a path of {path} bytes");
            let by = match denial.by {
                By::AppArmor(by) => {
                    assert!(by.profile.as_str().starts_with("nri-enforcer."));
                    format!("{:?}", by.child.is_some())
                }
                By::Selinux(by) => by.class,
            };
            format!("{by} {} {:?}", denial.operation, std::mem::discriminant(&denial.object))
        }
    }
}

/// A pattern, a zero byte, a path: what matches does so by a second telling, too, and lies below each directory that
/// the pattern is said to match something below.
pub fn pattern(bytes: &[u8]) -> String {
    let mut halves = bytes.splitn(2, |byte| *byte == 0);
    let text = String::from_utf8_lossy(halves.next().unwrap_or_default());
    let path = halves.next().unwrap_or_default();
    let pattern: Pattern = match text.parse() {
        Ok(pattern) => pattern,
        Err(error) => {
            let error: enforcer_core::pattern::PatternError = error;
            assert!(error.at >= 1 && error.at <= text.chars().count() + 1, "{error}");
            return without_names(&error.problem.to_string());
        }
    };
    assert!(text == pattern.as_str() || text.strip_suffix('/') == Some(pattern.as_str()), "{text}");
    let matches = pattern.matches(path);
    if let Some(naively) = super::naive::matches(pattern.parts(), path) {
        assert_eq!(matches, naively, "{text} {}", path.escape_ascii());
    }
    if matches {
        for (at, _) in path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && at + 1 < path.len()) {
            let directory = path.get(..at.max(1)).unwrap_or_default();
            // a path that begins with two slashes has no such directory
            if path.first() == Some(&b'/') && path.get(1) != Some(&b'/') {
                assert!(pattern.could_match_below(directory), "{text} {}", path.escape_ascii());
            }
        }
    } else {
        std::hint::black_box(pattern.could_match_below(path));
    }
    let kinds: Vec<_> =
        pattern.parts().iter().map(|part| format!("{:?}", std::mem::discriminant(part))).collect();
    format!("{matches} {}", kinds.iter().take(4).cloned().collect::<String>())
}

/// Any bytes as an event of the kernel: decoded or refused.
#[cfg(feature = "bpf")]
pub fn event(bytes: &[u8]) -> String {
    use enforcer_core::event::RawEvent;
    match RawEvent::decode(bytes) {
        Ok(event) => {
            assert!(event.event.path.len() <= bytes.len() && event.event.source.len() <= bytes.len());
            assert!(!format!("{event:?}").is_empty());
            "event".to_owned()
        }
        Err(error) => without_names(&error.to_string()),
    }
}

/// A message without what it repeats of the input.
fn without_names(message: &str) -> String {
    let outside = message.split('`').step_by(2);
    outside.flat_map(str::chars).filter(|c| !c.is_ascii_digit()).collect()
}
