//! The last look at a container before it is created, with what all plugins together changed. NRI 0.10.

use std::collections::BTreeMap;

use super::adjust::{ContainerAdjustment, ContainerUpdate};
use super::container::Container;
use super::pod::PodSandbox;
use super::wire::{Wire, mirror};
use crate::proto::api;

/// A validator's request: the container, and the sum of all plugins' adjustments to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validation {
    /// The pod.
    pub pod: PodSandbox,
    /// The container as it was before any plugin.
    pub container: Container,
    /// What the plugins changed, together.
    pub adjustment: ContainerAdjustment,
    /// What they change in other containers.
    pub updates: Vec<ContainerUpdate>,
    /// Who changed what, by container id.
    pub owners: BTreeMap<String, FieldOwners>,
    /// The plugins that were asked.
    pub plugins: Vec<PluginInstance>,
}

mirror! {
    /// A plugin.
    pub struct PluginInstance: PluginInstance {
        /// Its name.
        name: String,
        /// Its index, two digits.
        index: String,
    }
}

mirror! {
    /// Who set which field of one container. The numbers are those of the protocol's `Field` enum.
    pub struct FieldOwners: FieldOwners {
        /// Field to plugin.
        simple: BTreeMap<i32, String>,
        /// Field to key (of an annotation, a variable, a mount's destination) to plugin.
        compound: BTreeMap<i32, BTreeMap<String, String>>,
    }
}

impl Wire<api::ValidateContainerAdjustmentRequest> for Validation {
    fn from_wire(wire: api::ValidateContainerAdjustmentRequest) -> Self {
        Self {
            pod: Option::from_wire(wire.pod).unwrap_or_default(),
            container: Option::from_wire(wire.container).unwrap_or_default(),
            adjustment: Option::from_wire(wire.adjust).unwrap_or_default(),
            updates: Wire::from_wire(wire.update),
            owners: wire.owners.0.map(|owners| Wire::from_wire(owners.owners)).unwrap_or_default(),
            plugins: Wire::from_wire(wire.plugins),
        }
    }

    fn into_wire(self) -> api::ValidateContainerAdjustmentRequest {
        let owners = api::OwningPlugins { owners: self.owners.into_wire(), ..Default::default() };
        api::ValidateContainerAdjustmentRequest {
            pod: Some(self.pod).into_wire(),
            container: Some(self.container).into_wire(),
            adjust: Some(self.adjustment).into_wire(),
            update: self.updates.into_wire(),
            owners: Some(owners).into(),
            plugins: self.plugins.into_wire(),
            ..Default::default()
        }
    }
}
