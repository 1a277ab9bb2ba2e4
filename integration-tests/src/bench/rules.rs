//! Sets of rules, the same for every enforcer that is compared: which, as a policy, and as an AppArmor profile.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where measured files are; see `programs/cost.c`.
pub const TREES: [&str; 2] = ["/tmp", "/srv"];
/// A file that no rule names; it is there.
pub const OTHER: &str = "/opt/bench/other";
/// The files that rules deny; they are there.
pub const DENIED: [&str; 3] = ["/etc/app00000/secret0.conf", "/opt/bench/a.secretkey", "/tmp/near"];

/// How many directories are on the way to the deepest of them.
const LEVELS: u32 = 19;

/// What kind of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Block rules elsewhere: half paths, half directories with all below, each fourth about executions.
    Block,
    /// The same as Allow rules, with the measured trees, and what is not named is blocked.
    Allow,
    /// Block rules by patterns that begin elsewhere.
    Glob,
    /// The same after one that may match anywhere: names have to be read byte by byte.
    Anywhere,
    /// Allow rules by patterns, with the measured trees; what is not named is blocked.
    Whitelist,
    /// Block rules after a pattern that may match anywhere and ends in a wildcard: each byte of a path has to be read.
    Wild,
    /// Allow rules for each directory on the way to the measured files, without what lies deeper; the rest is blocked.
    Deep,
    /// Block rules about neighbours: files and directories beside each component of the measured paths.
    Near,
    /// One Block rule for a file, and others for addresses elsewhere.
    Network,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Block,
        Self::Allow,
        Self::Glob,
        Self::Anywhere,
        Self::Whitelist,
        Self::Wild,
        Self::Deep,
        Self::Near,
        Self::Network,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Allow => "allow",
            Self::Glob => "glob",
            Self::Anywhere => "anywhere",
            Self::Whitelist => "whitelist",
            Self::Wild => "wild",
            Self::Deep => "deep",
            Self::Near => "near",
            Self::Network => "network",
        }
    }

    /// Whether what is not named is denied.
    #[must_use]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Allow | Self::Whitelist | Self::Deep)
    }
}

/// So many rules of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rules {
    /// The kind.
    pub kind: Kind,
    /// How many; for those that allow, besides the measured trees.
    pub count: u32,
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.count)
    }
}

impl FromStr for Rules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let kinds = Kind::ALL.map(Kind::name).join(", ");
            format!("`{text}` is not KIND:N, for example block:100; kinds are {kinds}")
        };
        let (kind, count) = text.split_once(':').ok_or_else(wrong)?;
        let kind = Kind::ALL.into_iter().find(|k| k.name() == kind).ok_or_else(wrong)?;
        match count.replace(['_', ','], "").parse() {
            Ok(count @ 1..=100_000) => Ok(Self { kind, count }),
            _ => Err(wrong()),
        }
    }
}

/// One rule, of which each enforcer makes its own.
enum Rule {
    Path(String),
    Below(String),
    Pattern(String),
    Program(String),
    Destination(String),
}

impl Rules {
    /// A file that is denied under these rules, and exists.
    #[must_use]
    pub fn denied(self) -> &'static str {
        let [block, glob, near] = DENIED;
        match self.kind {
            Kind::Block | Kind::Network => block,
            Kind::Allow | Kind::Whitelist | Kind::Deep => OTHER,
            Kind::Glob | Kind::Anywhere | Kind::Wild => glob,
            Kind::Near => near,
        }
    }

    /// A file that is permitted under these rules, and exists.
    #[must_use]
    pub fn permitted(self) -> &'static str {
        if self.kind.allows() { "/tmp/file0200" } else { OTHER }
    }

    /// Whether connecting to 10.0.0.1:443 is denied.
    #[must_use]
    pub const fn denies_a_destination(self) -> bool {
        matches!(self.kind, Kind::Network) && self.count > 1
    }

    fn list(self) -> Vec<Rule> {
        (0..self.count).map(|n| self.rule(n)).collect()
    }

    fn rule(self, n: u32) -> Rule {
        // A prime step: neighbours in the list are not neighbours in the tree.
        let a = n.wrapping_mul(7919) % 100_003;
        match (self.kind, n % 4) {
            (Kind::Block | Kind::Allow | Kind::Deep, 0 | 2) => {
                Rule::Path(format!("/etc/app{a:05}/secret{n}.conf"))
            }
            (Kind::Block | Kind::Allow | Kind::Deep, 1) => Rule::Below(format!("/var/lib/svc{a:05}/data/")),
            (Kind::Deep, _) => Rule::Path(format!("/usr/lib/app{a:05}/file{n}")),
            (Kind::Block | Kind::Allow, _) => Rule::Program(format!("/usr/lib/app{a:05}/tool{n}")),
            (Kind::Network, _) if n == 0 => Rule::Path(DENIED[0].into()),
            (Kind::Network, _) if n == 1 => Rule::Destination("10.0.0.1/32".into()),
            (Kind::Network, _) => Rule::Destination(format!("10.{}.{}.0/24", 1 + n / 256, n % 256)),
            (Kind::Glob, _) if n == 0 => Rule::Pattern("/opt/bench/*.secretkey".into()),
            (Kind::Anywhere, _) if n == 0 => Rule::Pattern("/**/*.secretkey".into()),
            (Kind::Wild, _) if n == 0 => Rule::Pattern("/**/*.secretkey*".into()),
            (Kind::Glob | Kind::Anywhere | Kind::Whitelist | Kind::Wild, 0 | 2) => {
                Rule::Pattern(format!("/etc/app{a:05}/*.conf"))
            }
            (Kind::Glob | Kind::Anywhere | Kind::Whitelist | Kind::Wild, _) => {
                Rule::Pattern(format!("/var/lib/svc{a:05}/**/*.key"))
            }
            (Kind::Near, _) if n == 0 => Rule::Path("/tmp/near".into()),
            (Kind::Near, k) => {
                let base = if n.is_multiple_of(2) { TREES[0] } else { TREES[1] };
                let mut path = base.to_owned();
                (2..2 + n / 2 % 18).for_each(|d| path.push_str(&format!("/dir{d:05}")));
                if k < 2 {
                    Rule::Path(format!("{path}/other{n}"))
                } else {
                    Rule::Below(format!("{path}/below{n}/"))
                }
            }
        }
    }

    /// As a policy; it selects `app: bench` in the namespace `default`.
    #[must_use]
    pub fn policy(self) -> String {
        self.policy_of("bench")
    }

    /// As a policy of which there are many: for another app, about other files.
    #[must_use]
    pub fn variant(self, n: u32) -> String {
        let app = format!("app-{n}");
        self.policy_of(&app)
            .replace("secret", &format!("secret-{n}-"))
            .replace("/data/", &format!("/data-{n}/"))
    }

    fn policy_of(self, app: &str) -> String {
        let (mut paths, mut directories, mut patterns) = (String::new(), String::new(), String::new());
        let (mut programs, mut destinations) = (String::new(), String::new());
        for rule in self.list() {
            // Writing to a String cannot fail.
            let _ = match rule {
                Rule::Path(p) => writeln!(paths, "    - path: {p}"),
                Rule::Below(d) => writeln!(directories, "    - {{dir: {d}, recursive: true}}"),
                Rule::Pattern(p) => writeln!(patterns, "    - pattern: \"{p}\""),
                Rule::Program(p) => writeln!(programs, "    - path: {p}"),
                Rule::Destination(d) => writeln!(destinations, "    - {{cidr: {d}, ports: \"443\"}}"),
            };
        }
        if self.kind.allows() {
            for mut path in TREES.map(str::to_owned) {
                if self.kind == Kind::Deep {
                    for next in 2..2 + LEVELS {
                        let _ = writeln!(directories, "    - {{dir: {path}/}}");
                        let _ = write!(path, "/dir{next:05}");
                    }
                } else {
                    let _ = writeln!(directories, "    - {{dir: {path}/, recursive: true}}");
                }
            }
            if !programs.is_empty() {
                let _ = writeln!(programs, "    - path: /tmp/nothing");
            }
        }
        let mut text = format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: {}-{}, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  action: {}\n  file:\n",
            self.kind.name(),
            self.count,
            if self.kind.allows() { "Allow" } else { "Block" },
        );
        for (name, list) in
            [("matchPaths", &paths), ("matchDirectories", &directories), ("matchPatterns", &patterns)]
        {
            if !list.is_empty() {
                text.push_str(&format!("    {name}:\n{list}"));
            }
        }
        if !programs.is_empty() {
            text.push_str(&format!("  process:\n    matchPaths:\n{programs}"));
        }
        if !destinations.is_empty() {
            text.push_str(&format!("  network:\n    matchDestinations:\n{destinations}"));
        }
        text
    }

    /// Name of the AppArmor profile.
    #[must_use]
    pub fn profile_name(self) -> String {
        format!("bench-{}-{}", self.kind.name(), self.count)
    }

    /// As an AppArmor profile.
    #[must_use]
    pub fn profile(self) -> String {
        let mut text = format!(
            "profile {} flags=(attach_disconnected,mediate_deleted) {{\n  network,\n  capability,\n  unix,\n  signal,\n",
            self.profile_name()
        );
        let (verb, rights) = if self.kind.allows() { ("", "rwlkm") } else { ("deny ", "klmrw") };
        if self.kind.allows() {
            text.push_str("  /tmp/** rwlkmix,\n  /srv/** rwlkm,\n  /proc/** r,\n");
        } else {
            text.push_str("  file,\n");
        }
        for rule in self.list() {
            let _ = match rule {
                Rule::Path(p) | Rule::Pattern(p) => writeln!(text, "  {verb}{p} {rights},"),
                Rule::Below(d) => writeln!(text, "  {verb}{d}{{,**}} {rights},"),
                Rule::Program(p) if self.kind.allows() => writeln!(text, "  {p} ix,"),
                Rule::Program(p) => writeln!(text, "  deny {p} x,"),
                Rule::Destination(_) => Ok(()), // it knows families only
            };
        }
        text.push_str("}\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::decide::{Access, Verdict};
    use enforcer_core::policy::parse;
    use enforcer_core::ruleset::{Class, PostureAction, Postures, Ruleset};
    use enforcer_core::subject::Subject;

    #[test]
    fn names_are_read_back() {
        for kind in Kind::ALL {
            let rules = Rules { kind, count: 10_000 };
            assert_eq!(rules.to_string().parse(), Ok(rules));
        }
        assert_eq!("block:10_000".parse(), Ok(Rules { kind: Kind::Block, count: 10_000 }));
        for bad in ["block", "block:0", "deny:1", "block:x"] {
            assert!(bad.parse::<Rules>().unwrap_err().contains("KIND:N"), "{bad}");
        }
    }

    #[test]
    fn policies_say_what_is_measured() {
        let subject = Subject {
            namespace: "default".into(),
            labels: [("app".into(), "bench".into())].into(),
            ..Subject::default()
        };
        for kind in Kind::ALL {
            for count in [1, 10, 100] {
                let rules = Rules { kind, count };
                let parsed = parse("bench.yaml", &rules.policy());
                assert!(parsed.errors.is_empty(), "{rules}: {:?}", parsed.errors);
                let postures = Postures::default().with(Class::File, PostureAction::Block);
                let resolved = Ruleset::resolve(&parsed.policies, &postures, &subject);
                if !resolved.coverage.is_full() {
                    continue; // said in the table
                }
                let decide = |path: &str| resolved.ruleset.decide(&Access::read(path.as_bytes())).verdict;
                assert_eq!(decide(rules.denied()), Verdict::Block, "{rules}");
                assert_eq!(decide(rules.permitted()), Verdict::Allow, "{rules}");
                assert_eq!(decide("/srv/dir00002/dir00003/dir00004/file0500"), Verdict::Allow, "{rules}");
                let exec = resolved.ruleset.decide(&Access::exec(b"/tmp/nothing")).verdict;
                assert_eq!(exec, Verdict::Allow, "{rules}");
                let extra = match kind {
                    Kind::Deep => 2 * LEVELS,
                    Kind::Allow => 2 + u32::from(count > 3),
                    Kind::Whitelist => 2,
                    _ => 0,
                };
                assert_eq!(
                    resolved.ruleset.rules().len(),
                    usize::try_from(count + extra).unwrap(),
                    "{rules}"
                );
            }
        }
    }
}
