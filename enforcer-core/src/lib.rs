//! The library of nri-enforcer: KubeArmor policies in, enforcement of containers by the kernel out.
//!
//! It is a one-way street, and each border has a type that says what was checked on the way:
//!
//! | stage | from | to | what the result proves |
//! |---|---|---|---|
//! | [`policy::parse`] | text | [`policy::Policy`] | every name known, every path parsed, at least one rule |
//! | [`Ruleset::resolve`](ruleset::Ruleset::resolve) | policies, a [`subject::Subject`] | [`ruleset::Ruleset`], [`coverage::Coverage`] | one container, merged and ordered; equal digests mean equal rules; every gap is told |
//! | [`Ruleset::with_links`](ruleset::Ruleset::with_links) | a ruleset, what links lead to in a container | [`links::Linked`] | paths count by all of their names |
//! | [`compile::bpf::compile`] | a ruleset | [`compile::bpf::BpfImage`] | it fits the programs; dead data |
//! | [`compile::apparmor::compile`] | a ruleset | [`compile::apparmor::AppArmorProfile`] | no text of a policy is more than it says; what AppArmor cannot say is a gap |
//! | [`compile::selinux::compile`] | a ruleset | [`compile::selinux::Labels`] | no text of a policy gets into SELinux's; what labels cannot say is a gap |
//! | `enforce::Enforcer::arm` | a ruleset, a process | `enforce::Armed` | complete in the kernel before it was published, and read back |
//! | `enforce::EventStream::poll` | bytes of the kernel | `event::Event` | version and lengths checked; container and rule, or explicitly unknown |
//!
//! Everything before `arm` is pure: no I/O, no clock, no global; the same input gives the same bytes.
//! [`decide`] is the meaning of the rules, in plain Rust; the kernel's matcher is tested against it.
//!
//! # From YAML to a decision
//!
//! ```
//! use enforcer_core::compile::bpf::compile;
//! use enforcer_core::decide::{Access, DecidedBy, Verdict};
//! use enforcer_core::policy::parse;
//! use enforcer_core::ruleset::{Postures, Ruleset};
//! use enforcer_core::subject::Subject;
//!
//! let parsed = parse("policy.yaml", "
//! apiVersion: security.kubearmor.com/v1
//! kind: KubeArmorPolicy
//! metadata: { name: no-user-list }
//! spec:
//!   selector: { matchLabels: { app: web } }
//!   file:
//!     matchPaths: [{ path: /etc/passwd }]
//!   network: { matchDNSQueries: [{ domain: example.com }] }
//! ");
//! assert!(parsed.errors.is_empty(), "each has a file, a line, a column, and help");
//!
//! let web = Subject {
//!     namespace: "default".into(),
//!     labels: [("app".into(), "web".into())].into(),
//!     ..Subject::default()
//! };
//! let resolved = Ruleset::resolve(&parsed.policies, &Postures::default(), &web);
//! assert_eq!(resolved.coverage.gaps[0].field, "spec.network.matchDNSQueries[0]", "never dropped in silence");
//!
//! let ruleset = resolved.ruleset;
//! let decision = ruleset.decide(&Access::read(b"/etc/passwd").from(b"/bin/cat"));
//! assert_eq!(decision.verdict, Verdict::Block);
//! let DecidedBy::Rule(id) = decision.by else { panic!("a rule decides") };
//! assert_eq!(ruleset.origin(id).map(|origin| origin.rule.as_str()), Some("spec.file.matchPaths[0]"));
//!
//! let image = compile(&ruleset)?; // what `arm` loads
//! assert_eq!(image, compile(&ruleset)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! - `bpf` (default): the modules `enforce`, `event` and `host`. Building it needs clang, libelf and zlib; using it needs
//!   root and Linux 6.1 or later with BPF-LSM. `host::probe` says what a machine lacks.
//! - Without it the crate is the pure part, on any platform: an editor, an admission check, a dry run.
//!
//! # Tests of programs that embed it
//!
//! - What a policy does is a question to [`Ruleset::decide`](ruleset::Ruleset::decide): no kernel, no root. The text form
//!   of a ruleset is made to be compared with a golden file.
//! - Put `Enforcer` behind a trait of your own with the calls that you make, and record them in a fake; errors of `arm` are
//!   where a container must not start.
//! - What the kernel answers to a path can be asked without attaching anything, as root: `enforce::door::Doors`.
//! - What enforcement does needs a kernel that runs BPF-LSM programs; a virtual machine will do.

#![forbid(unsafe_code)]

pub mod access;
pub mod applet;
pub mod audit;
pub mod capability;
pub mod compile;
pub mod coverage;
pub mod decide;
#[cfg(feature = "bpf")]
pub mod enforce;
#[cfg(feature = "bpf")]
pub mod event;
pub mod explain;
#[cfg(feature = "bpf")]
pub mod host;
pub mod links;
mod needed;
pub mod network;
mod object;
pub mod parallel;
pub mod path;
pub mod pattern;
pub mod policy;
mod posture;
pub mod preset;
pub mod ruleset;
pub mod seccomp;
pub mod subject;
pub mod support;
pub mod syscall;
pub mod visibility;
