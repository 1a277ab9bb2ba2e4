//! How much memory an alert takes. Whoever is confined chooses paths and names, up to 16 KB each as they are written.

use super::Alert;

impl Alert {
    /// Bytes in memory.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = [
            &self.updated_time,
            &self.cluster_name,
            &self.host_name,
            &self.namespace_name,
            &self.pod_name,
            &self.labels,
            &self.container_id,
            &self.container_name,
            &self.container_image,
            &self.parent_process_name,
            &self.process_name,
            &self.policy_name,
            &self.policy_namespace,
            &self.rule,
            &self.severity,
            &self.tags,
            &self.message,
            &self.source,
            &self.resource,
            &self.data,
            &self.cwd,
            &self.tty,
            &self.owner.name,
            &self.owner.namespace,
            &self.first_time,
            &self.last_time,
        ];
        let texts = texts.into_iter().chain(&self.a_tags).map(|text| text.capacity() + size_of::<String>());
        texts.sum::<usize>() + size_of::<Self>()
    }
}
