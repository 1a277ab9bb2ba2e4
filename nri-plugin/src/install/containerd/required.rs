//! NRI's default validator (containerd 2.2 and later), which refuses each container that a required plugin has not seen
//! created. Its keys, and who may do without: docs/validation-plugins.md of github.com/containerd/nri.

use serde_json::{Value, json};

use super::{Configuration, NRI, NRI_NAMES, Wanted};
use crate::cli::InstallArgs;
use crate::install::record::Record;
use crate::install::{Failure, Told};

const SECTION: &str = "default_validator";
const ENABLE: &str = "enable";
const PLUGINS: &str = "required_plugins";
const TOLERATION: &str = "tolerate_missing_plugins_annotation";

/// What containerd is to require.
#[derive(Debug)]
pub(super) struct Required {
    /// The name of the daemon as a plugin.
    plugin: String,
    /// Pods with this annotation do without.
    toleration: String,
}

/// Has the daemon required, but by pods with the annotation.
///
/// # Errors
/// When containerd has no such validator, when pods do without a plugin by another annotation already, and when an earlier
/// installation requires the daemon by another name: containerd would wait for both.
pub(super) fn put(
    args: &InstallArgs,
    record: &Record,
    configuration: &mut Configuration,
    wanted: &mut Wanted,
    told: &mut Told,
) -> Result<(), Failure> {
    let (key, ours) = (&args.toleration_annotation, &args.plugin_name);
    let (index, section) = match configuration.last_with(NRI_NAMES, &[SECTION]) {
        (_, None) => (configuration.last_with(NRI_NAMES, &[]).0, None),
        found => found,
    };
    let section = match &configuration.effective {
        Some(effective) => Some(section_of(effective).ok_or_else(|| {
            Failure::no(
                "--required-plugin: this containerd has no default validator of NRI (2.2 and later have)",
            )
        })?),
        None => section.as_ref(),
    };
    let now = |key| section.and_then(|section| section.get(key));
    match now(TOLERATION).and_then(Value::as_str) {
        Some(other) if !other.is_empty() && other != key => {
            return Err(Failure::no(format!(
                "--required-plugin: pods do without a required plugin by the annotation `{other}` already: name it with \
                 --toleration-annotation"
            )));
        }
        _ => {}
    }
    let mut plugins = now(PLUGINS).and_then(Value::as_array).cloned().unwrap_or_default();
    if !plugins.iter().any(|plugin| is(plugin, ours)) {
        if record.edits.iter().any(|(_, edit)| edit.key.last().is_some_and(|key| key == PLUGINS)) {
            return Err(Failure::no(format!(
                "--required-plugin: an earlier installation requires the daemon by another name than `{ours}`: name that with \
                 --plugin-name, or uninstall first"
            )));
        }
        plugins.push(ours.as_str().into());
    }
    configuration.version_first(index)?;
    let [uri, _] = NRI;
    let plugin = configuration.files.get(index).map_or(uri, |file| configuration.name(file, NRI_NAMES));
    if let Some(file) = configuration.files.get_mut(index) {
        for (name, value) in
            [(ENABLE, json!(true)), (PLUGINS, Value::from(plugins)), (TOLERATION, json!(key))]
        {
            file.set(&["plugins", plugin, SECTION, name], &value.to_string())?;
        }
    }
    told.note(format!(
        "from its next start on containerd refuses every container while the daemon is away, but of pods with the annotation \
         `{key}: \"true\"`: before that, give it to static pods, to all others of kube-system, and to the daemon's own where it \
         runs in one; and see that nobody else can"
    ));
    wanted.required = Some(Required { plugin: ours.clone(), toleration: key.clone() });
    Ok(())
}

impl Required {
    /// Whether containerd has made of it what was meant.
    pub(super) fn holds(&self, effective: &Value) -> bool {
        let Some(section) = section_of(effective) else { return false };
        let plugins = section.get(PLUGINS).and_then(Value::as_array).into_iter().flatten();
        section.get(ENABLE) == Some(&json!(true))
            && section.get(TOLERATION) == Some(&json!(self.toleration))
            && plugins.into_iter().any(|plugin| is(plugin, &self.plugin))
    }
}

fn section_of(effective: &Value) -> Option<&Value> {
    effective.get("plugins")?.get(NRI[0])?.get(SECTION)
}

/// Whether it is the plugin of this name: by that, or by that and its index.
fn is(plugin: &Value, ours: &str) -> bool {
    let name = plugin.as_str().unwrap_or_default();
    name == ours || name.split_once('-').is_some_and(|(index, name)| index.len() == 2 && name == ours)
}
