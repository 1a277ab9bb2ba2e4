//! `diff`.

use std::path::PathBuf;

use clap::Args;
use enforcer_core::capability::Capability;
use enforcer_core::policy::PolicyId;

use super::values::{capability, policy_id};
use super::{BaseChoice, Label, LibseccompVersion, Output, Posture};

pub(super) const DIFF_HELP: &str = "\
Told first is what changes accesses that no rule is about: a class that becomes a whitelist, or is one no more.

Without --old the daemon compares with the policies that it has in force, those of the API server, too, for each container of
this node or of --namespace, and follows symbolic links in them. Each policy of --new takes the place of the one with the
same kind, namespace and name, or comes new; those of --remove go; all others stay.

With --old and --running the containers and the node's postures are those that the daemon tells (see `nri-enforcer status`), and
symbolic links in them are not followed. Containers that no policy reaches are passed over.

Exit codes:
  0  nothing changes
  1  something does
  2  bad usage, policies that cannot be read or have errors, or no daemon answers

Examples:
  nri-enforcer diff --new changed.yaml
  nri-enforcer diff --remove ksp/default/web
  kubectl exec -i -n nri-enforcer nri-enforcer-x2x4z -- nri-enforcer diff --new - < changed.yaml
  nri-enforcer diff --old /etc/nri-enforcer/policies --new policies/ --namespace default --label app=web
  nri-enforcer diff --old /etc/nri-enforcer/policies --new policies/ --running";

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Policy file, or directory of them, before the change; `-` is stdin; may be repeated [default: what the daemon has in force]
    #[arg(long, value_name = "FILE_OR_DIR")]
    pub old: Vec<PathBuf>,
    /// Policy file, or directory of them, after it; `-` is stdin; may be repeated
    #[arg(long, required_unless_present = "remove", value_name = "FILE_OR_DIR")]
    pub new: Vec<PathBuf>,
    /// Policy that would go, of those in force: `ksp/NAMESPACE/NAME`, `csp/NAME`, `hsp/NAME` or `kscmp/NAMESPACE/NAME`; may be repeated
    #[arg(long, value_name = "POLICY", value_parser = policy_id, conflicts_with = "old")]
    pub remove: Vec<PolicyId>,
    /// Namespace of the pod; with --running or without --old, only containers of this namespace
    #[arg(long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Label of the pod; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", conflicts_with = "running")]
    pub labels: Vec<Label>,
    /// Name of the container in the pod
    #[arg(long, value_name = "NAME", default_value = "", conflicts_with = "running")]
    pub container: String,
    /// For each container that runs on this node, as without --old
    #[arg(long)]
    pub running: bool,
    /// With --running: the daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_STATUS_SOCKET)]
    pub status_socket: PathBuf,
    /// Without --old: the daemon's socket, as given to `run`
    #[arg(long, value_name = "PATH", default_value = crate::config::DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// What happens to an access that no rule matches, where a class has Allow rules; may be repeated
    #[arg(long = "posture", value_name = "CLASS=ACTION", conflicts_with = "running")]
    pub postures: Vec<Posture>,
    /// The seccomp profile below seccomp policies: runtime-default, unconfined, or a file of OCI JSON
    #[arg(long, value_name = "PROFILE", default_value = "runtime-default")]
    pub base: BaseChoice,
    /// Capability of the container, for --base runtime-default; may be repeated [default: those of containerd]
    #[arg(long = "cap", value_name = "CAP", value_parser = capability)]
    pub capabilities: Vec<Capability>,
    /// Version of the runtime's libseccomp: `runc --version` tells
    #[arg(long, value_name = "VERSION", default_value = "2.5.4")]
    pub libseccomp: LibseccompVersion,
    /// Root of the container's image: symbolic links in it are followed
    #[arg(long, value_name = "DIR", conflicts_with = "running")]
    pub root: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
