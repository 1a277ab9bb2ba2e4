//! NRI's default validator (containerd 2.2 and later), which refuses each container that a required plugin has not seen
//! created. Its keys, and who may do without: docs/validation-plugins.md of github.com/containerd/nri.

use serde_json::{Value, json};

use super::{Configuration, NRI, NRI_NAMES, Wanted};
use crate::cli::InstallArgs;
use crate::config::PLUGIN_NAME;
use crate::install::{Failure, Told};

const SECTION: &str = "default_validator";
const ENABLE: &str = "enable";
const PLUGINS: &str = "required_plugins";
const TOLERATION: &str = "tolerate_missing_plugins_annotation";

/// Has the daemon required, but by pods with the annotation.
///
/// # Errors
/// When containerd has no such validator, or pods do without a plugin by another annotation already.
pub(super) fn put(
    args: &InstallArgs,
    configuration: &mut Configuration,
    wanted: &mut Wanted,
    told: &mut Told,
) -> Result<(), Failure> {
    let key = &args.toleration_annotation;
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
    if !plugins.iter().any(is_ours) {
        plugins.push(PLUGIN_NAME.into());
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
    wanted.required = Some(key.clone());
    Ok(())
}

/// Whether containerd has made of it what was meant.
pub(super) fn holds(effective: &Value, key: &str) -> bool {
    let Some(section) = section_of(effective) else { return false };
    let plugins = section.get(PLUGINS).and_then(Value::as_array).into_iter().flatten();
    section.get(ENABLE) == Some(&json!(true))
        && section.get(TOLERATION) == Some(&json!(key))
        && plugins.into_iter().any(is_ours)
}

fn section_of(effective: &Value) -> Option<&Value> {
    effective.get("plugins")?.get(NRI[0])?.get(SECTION)
}

/// By its name, or by that and its index.
fn is_ours(plugin: &Value) -> bool {
    let name = plugin.as_str().unwrap_or_default();
    name == PLUGIN_NAME
        || name.split_once('-').is_some_and(|(index, name)| index.len() == 2 && name == PLUGIN_NAME)
}
