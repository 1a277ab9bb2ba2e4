//! The Helm chart in a real cluster of one node: etcd, Kubernetes 1.20, containerd 1.7, helm and kubectl, on this machine in
//! namespaces of its own. `make cluster-test` alone runs this: it takes minutes, and Kubernetes is built for it once.

mod access;
mod certificates;
mod churn;
mod cluster;
mod components;
mod enforced;
mod feed;
mod guest;
mod install;
mod node;
mod outages;
mod pods;
mod policies;
mod release;
mod removal;
mod tools;

use anyhow::Result;

/// The same on a kernel that enforces, in a guest.
#[test]
fn policies_of_the_cluster_hold_by_bpf() -> Result<()> {
    guest::within(enforced::hold)
}

/// The steps build on each other: each finds the cluster as the one before left it.
#[test]
fn the_chart_works_in_a_cluster() -> Result<()> {
    node::within("the_chart_works_in_a_cluster", |cluster| {
        install::becomes_ready_when_nri_is_on(cluster)?;
        policies::hold_in_pods(cluster)?;
        outages::are_survived(cluster)?;
        churn::misses_nothing(cluster)?;
        access::is_enough_and_least(cluster)?;
        access::that_is_taken_away_is_told(cluster)?;
        removal::lets_pods_start_again(cluster)
    })
}
