//! What a policy asks for and nothing here enforces: said aloud, never dropped.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::policy::PolicyId;

/// What of a container's policies is not enforced. Empty means: everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The gaps, sorted, no two equal.
    pub gaps: Vec<Gap>,
}

impl Coverage {
    /// Gaps in canonical order.
    #[must_use]
    pub fn new(gaps: impl IntoIterator<Item = Gap>) -> Self {
        let mut gaps: Vec<_> = gaps.into_iter().collect();
        gaps.sort_unstable();
        gaps.dedup();
        Self { gaps }
    }

    /// Whether every rule is enforced as written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.gaps.is_empty()
    }
}

/// One gap a line.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gaps.iter().try_for_each(|gap| writeln!(f, "{gap}"))
    }
}

/// Part of a policy that is understood and not enforced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Gap {
    /// The policy.
    pub policy: PolicyId,
    /// The part of it, such as `spec.network.matchProtocols[0]`.
    pub field: String,
    /// What is not enforced.
    pub reason: GapReason,
    /// What happens instead, and what to do.
    pub advice: String,
}

/// `namespace/name: field: reason; advice`
impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, field, reason, advice } = self;
        write!(f, "{policy}: {field}: {reason}; {advice}")
    }
}

/// What is not enforced. A closed set, fit for the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// Policies on the host's own processes, on a node that does not enforce those.
    HostPolicies,
    /// Names of hosts by a regular expression.
    HostPattern,
    /// The network section.
    Network,
    /// The capabilities section.
    Capabilities,
    /// The syscalls section.
    Syscalls,
    /// A preset.
    Preset,
    /// System calls told apart by the path that they are given.
    SyscallPath,
    /// A directory as the source of a system call.
    SourceDirectory,
    /// Names that are asked of DNS.
    Dns,
    /// The device section.
    Device,
    /// Native AppArmor rules.
    AppArmor,
    /// A pattern.
    Pattern,
    /// The condition `allowedArgs`.
    AllowedArgs,
    /// The condition `pts: false`.
    Terminal,
    /// Another name of a path, by a symbolic link.
    Link,
    /// A link to a program that does what its name says.
    MultiCall,
    /// A system call that the libseccomp of the node has no name for.
    SeccompName,
    /// Comparisons of arguments that a seccomp profile cannot say exactly, or not in its size.
    SeccompConditions,
    /// What differs between architectures: a profile has the same entries for all.
    SeccompArch,
    /// Numbers of system calls that nobody knows, which a profile has no room to answer with `ENOSYS`.
    SeccompUnknown,
    /// The seccomp profile that a container has of its own.
    SeccompBase,
    /// The seccomp profile of the policies, which the container does not have.
    SeccompProfile,
    /// Seccomp, on a machine that no profiles are made for.
    SeccompMachine,
    /// An object that AppArmor has no rule for.
    AppArmorObject,
    /// A condition that AppArmor has no word for.
    AppArmorCondition,
    /// Sockets that AppArmor does not tell apart.
    AppArmorProtocol,
    /// Programs that AppArmor does not see executed.
    AppArmorProcess,
    /// A source, which AppArmor knows by its own profile alone.
    AppArmorSource,
    /// Directories above what a rule is about.
    AppArmorTree,
    /// A pattern that AppArmor cannot say.
    AppArmorPattern,
    /// A capability that no process under a profile with paths has.
    AppArmorCapability,
    /// A native rule that is not safe to take.
    AppArmorNative,
    /// An object that no SELinux label stands for.
    SelinuxObject,
    /// Paths that cannot be listed, and so not labelled for SELinux.
    SelinuxPattern,
    /// A condition that SELinux has no word for.
    SelinuxCondition,
    /// A source, of which SELinux knows the domain alone.
    SelinuxSource,
    /// What is only to be reported, which SELinux does by type alone.
    SelinuxAudit,
    /// The posture of a whitelist, which SELinux labels cannot say.
    SelinuxWhitelist,
    /// A container's rules, where SELinux holds those of the host's own processes.
    SelinuxContainer,
    /// What a node cannot do without, where SELinux labels exempt nobody.
    SelinuxVital,
    /// Everything but seccomp, on a node that enforces nothing else.
    OtherThanSeccomp,
    /// Everything but seccomp, on a node on which nothing else works.
    NoLock,
    /// Policies on the host's own processes, on a node whose labels are not known yet.
    NodeLabels,
    /// Policies of a namespace that has more than there is room for: whom they select is not known.
    LeftOut,
}

impl GapReason {
    /// The reason in one word, such as `SyscallPath`.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// What to do where this is a gap, whatever the rule says.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::SyscallPath => {
                "what such a path names can change after it was looked at; write a `file` rule for it"
            }
            Self::SourceDirectory => "name the executables as `path`s; the other sources count",
            Self::Dns => {
                "name the addresses in `network.matchDestinations`; which names a resolver answers is for the \
                 resolver to say"
            }
            Self::LeftOut => {
                "whom it selects is not known; remove policies of the namespace that nobody needs"
            }
            Self::AppArmor => "write what they say as process, file, network and capability rules",
            _ => "nothing of it has any effect",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::HostPolicies => "this node does not enforce policies on the host's own processes",
            Self::HostPattern => "hosts are not selected by regular expressions",
            Self::SyscallPath => "the paths that system calls are given are not looked at",
            Self::SourceDirectory => "directories are no sources of system calls",
            Self::Dns => "DNS queries are not looked at",
            Self::Device => "devices are not looked at",
            Self::AppArmor => "native AppArmor rules are not read",
            Self::Network => "network rules are not enforced yet",
            Self::Capabilities => "capability rules are not enforced yet",
            Self::Syscalls => "syscall rules are not enforced yet",
            Self::Preset => "presets are not enforced yet",
            Self::Pattern => "patterns are not enforced yet",
            Self::AllowedArgs => "`allowedArgs` is not enforced yet",
            Self::Terminal => "`pts` is not enforced yet",
            Self::Link => "a symbolic link is not followed",
            Self::MultiCall => "a link to a program of many names is not followed",
            Self::SeccompName => "a system call has no name here",
            Self::SeccompConditions => "the comparisons are more than a seccomp profile holds",
            Self::SeccompArch => "a seccomp profile does not tell architectures apart",
            Self::SeccompUnknown => "system calls that are not known yet are denied by another errno",
            Self::SeccompBase => "the container's own seccomp profile is not known",
            Self::SeccompProfile => "the container does not have the seccomp profile of its policies",
            Self::SeccompMachine => "no seccomp profiles are made for this machine",
            Self::AppArmorObject => "AppArmor has no such rule",
            Self::AppArmorCondition => "AppArmor does not look at the condition",
            Self::AppArmorProtocol => "AppArmor tells sockets apart by family and type alone",
            Self::AppArmorProcess => "AppArmor does not judge all that is executed",
            Self::AppArmorSource => "AppArmor knows who acts by the profile alone",
            Self::AppArmorTree => "AppArmor does not see what a renamed directory holds",
            Self::AppArmorPattern => "the pattern is more than AppArmor rules can say",
            Self::AppArmorCapability => "AppArmor denies what gets round paths",
            Self::AppArmorNative => "a native AppArmor rule is not taken",
            Self::SelinuxObject => "no SELinux label stands for such an object",
            Self::SelinuxPattern => "SELinux labels are on files that can be listed",
            Self::SelinuxCondition => "SELinux does not look at the condition",
            Self::SelinuxSource => "SELinux knows who acts by the domain alone",
            Self::SelinuxAudit => "SELinux labels deny, and do not report",
            Self::SelinuxWhitelist => "SELinux labels cannot deny what no rule names",
            Self::SelinuxContainer => "SELinux labels hold policies on the host's own processes alone",
            Self::SelinuxVital => "SELinux labels would deny what the node cannot do without",
            Self::OtherThanSeccomp => "this node enforces seccomp policies alone",
            Self::NoLock => "no lock works on this node",
            Self::NodeLabels => "the labels of this node are not known yet",
            Self::LeftOut => {
                "policies of the namespace are left out: it has more than its share of the room for them"
            }
        };
        f.write_str(what)
    }
}

/// As the sentence that it prints.
impl Serialize for GapReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
