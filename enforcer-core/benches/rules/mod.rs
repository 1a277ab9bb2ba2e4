//! Policies and accesses for the benchmarks: the same in every run.

use std::error::Error;
use std::fmt::Write as _;

use enforcer_core::policy::{Policy, parse};
use enforcer_core::ruleset::{Postures, Ruleset};
use enforcer_core::subject::Subject;

/// How many rules.
pub const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// Rules to a policy.
const RULES_OF_A_POLICY: usize = 100;

/// The path of rule `n`, of `depth` components. A hundred files share their directories.
pub fn path(n: usize, depth: usize) -> String {
    directory(n, depth) + &format!("/file-{n}")
}

/// A path as deep and as long as that of rule `n`, all but its last component the same, which no rule names.
pub fn neighbour(n: usize, depth: usize) -> String {
    directory(n, depth) + &format!("/fill-{n}")
}

fn directory(n: usize, depth: usize) -> String {
    let mut path = if depth > 1 { format!("/srv{}", n / 100) } else { String::new() };
    (2..depth).for_each(|_| path.push_str("/component"));
    path
}

/// Policies with this many Block rules, each for one path, as a file of as many YAML documents as it takes.
pub fn text(rules: usize, depth: usize) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    for n in 0..rules {
        if n % RULES_OF_A_POLICY == 0 {
            write!(
                text,
                "---\napiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\n\
                 metadata:\n  name: policy-{}\n  namespace: default\n\
                 spec:\n  selector:\n    matchLabels:\n      app: web\n  file:\n    matchPaths:\n",
                n / RULES_OF_A_POLICY
            )?;
        }
        writeln!(text, "      - path: {}", path(n, depth))?;
    }
    Ok(text)
}

/// The policies of [`text`].
pub fn policies(text: &str) -> Result<Vec<Policy>, Box<dyn Error>> {
    let parsed = parse("bench.yaml", text);
    match parsed.errors.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(parsed.policies),
    }
}

/// A container that all of them select.
pub fn subject() -> Subject {
    Subject {
        namespace: "default".into(),
        pod: "web".into(),
        labels: [("app".into(), "web".into())].into(),
        container: "main".into(),
        ..Subject::default()
    }
}

/// This many rules, merged.
pub fn ruleset(rules: usize, depth: usize) -> Result<Ruleset, Box<dyn Error>> {
    let policies = policies(&text(rules, depth)?)?;
    let ruleset = Ruleset::resolve(&policies, &Postures::default(), &subject()).ruleset;
    if ruleset.rules().len() != rules {
        return Err(format!("{} rules, not {rules}", ruleset.rules().len()).into());
    }
    Ok(ruleset)
}
