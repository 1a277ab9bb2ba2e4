//! The Helm chart: what it makes of its values, whether the programs take that, and that what it grants is enough on a
//! real node.

mod admission;
mod apparmor;
mod dashboard;
mod helm;
mod image;
mod manifests;
mod node;
mod page;
mod privileges;
mod programs;
mod releases;
mod values;
