//! podman's `precreate`: the configuration of a container that the runtime has not been given yet. podman writes it to
//! standard input, and takes what is on standard output in its place.
//!
//! podman tells no name there. The id stands in `linux.cgroupsPath`, which podman makes of it whatever the user asks for:
//! `PARENT/libpod-ID`, `OWN/libpod-payload-ID` (`--cgroups split`), and `SLICE:libpod:ID` under systemd. Without cgroups (`--cgroups disabled`) the path is empty; then
//! the id is that of the directory from which `/run/.containerenv` is mounted. The daemon finds the name by it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::state::OWN_ANNOTATIONS;

/// Bytes of a configuration at most; one with a large seccomp policy has some 100 KiB.
pub const MAX_SPEC_BYTES: usize = 4 << 20;
/// Bytes of a seccomp profile, as JSON, at most: it has to fit into a message.
pub const MAX_PROFILE_BYTES: usize = 768 << 10;
/// The annotation with a filter that crun (1.8 and others) installs in place of `linux.seccomp`. podman copies what the
/// image says there, and CRI-O what the pod says.
pub const CRUN_FILTER: &str = "run.oci.seccomp_bpf_data";
/// The annotations by which crun (1.8 and others) runs a container in another way than by executing its program: in a virtual
/// machine, or as WebAssembly in crun itself. They come from images and pods as [`CRUN_FILTER`] does.
pub const CRUN_HANDLERS: [&str; 2] = ["run.oci.handler", "module.wasm.image/variant"];
/// How the annotations begin that name files to which crun (1.8 and others) appends what hooks print, `run.oci.hooks.stdout` and
/// `run.oci.hooks.stderr`. It makes them as root and by the host's paths, and only where a container has hooks: with ours in each
/// container they would let an image write anywhere.
pub const CRUN_HOOK_OUTPUT: &str = "run.oci.hooks.";
/// The mount that podman adds to each container, from a directory of that container's own.
const OWN_MOUNT: &str = "/run/.containerenv";

/// What the daemon wants changed in a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// `linux.seccomp`; `None`: as it is.
    pub seccomp: Option<Value>,
    /// `process.apparmorProfile`; `None`: as it is.
    pub apparmor: Option<String>,
    /// Annotations that are added.
    pub annotations: BTreeMap<String, String>,
    /// Annotations that are taken out, before others are added.
    pub without: BTreeSet<String>,
}

/// A container's configuration, as far as the hook looks at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// podman's id: 64 hexadecimal digits. An error says why it is not known: whether such a container starts is decided where
    /// the reason of a refusal can be shown.
    pub id: Result<String, String>,
    forged: bool,
    whole: Map<String, Value>,
}

impl Spec {
    /// Reads a configuration. Annotations that only this hook and the daemon write are taken out, as they are an image's; and
    /// those that name files for what hooks print, whoever the container is.
    ///
    /// # Errors
    /// When it is none; the text says why.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut whole = match serde_json::from_slice(bytes) {
            Ok(Value::Object(whole)) => whole,
            Ok(_) => return Err("it is no JSON object".into()),
            Err(error) => return Err(format!("it is no JSON: {error}")),
        };
        let id = id_of(&whole);
        let forged = match whole.get_mut("annotations") {
            None | Some(Value::Null) => false,
            Some(Value::Object(annotations)) => {
                let before = annotations.len();
                annotations.retain(|key, _| {
                    ![OWN_ANNOTATIONS, CRUN_HOOK_OUTPUT].iter().any(|own| key.starts_with(own))
                });
                annotations.len() < before
            }
            Some(_) => return Err("`annotations` is no object".into()),
        };
        Ok(Self { id, forged, whole })
    }

    /// Whether an annotation was taken out, so that the configuration cannot be handed back as it came.
    #[must_use]
    pub fn forged(&self) -> bool {
        self.forged
    }

    /// The seccomp profile that podman gives it; `None`: none.
    #[must_use]
    pub fn seccomp(&self) -> Option<&Value> {
        self.whole.get("linux")?.get("seccomp").filter(|profile| !profile.is_null())
    }

    /// The configuration with what the daemon wants.
    ///
    /// # Errors
    /// When it has something else where that belongs.
    pub fn adjusted(mut self, adjustment: Adjustment) -> Result<Vec<u8>, String> {
        let Adjustment { seccomp, apparmor, annotations, without } = adjustment;
        if let Some(seccomp) = seccomp {
            section(&mut self.whole, "linux")?.insert("seccomp".into(), seccomp);
            section(&mut self.whole, "annotations")?.remove(CRUN_FILTER);
        }
        if let Some(profile) = apparmor {
            section(&mut self.whole, "process")?.insert("apparmorProfile".into(), profile.into());
        }
        if !without.is_empty() {
            section(&mut self.whole, "annotations")?.retain(|key, _| !without.contains(key));
        }
        for (key, value) in annotations {
            section(&mut self.whole, "annotations")?.insert(key, value.into());
        }
        Ok(Value::Object(self.whole).to_string().into_bytes())
    }
}

fn section<'a>(whole: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Map<String, Value>, String> {
    let section = whole.entry(name).or_insert(Value::Null);
    if section.is_null() {
        *section = Value::Object(Map::new());
    }
    section.as_object_mut().ok_or_else(|| format!("`{name}` is no object"))
}

/// The container's id.
fn id_of(whole: &Map<String, Value>) -> Result<String, String> {
    let path = whole.get("linux").and_then(|linux| linux.get("cgroupsPath")).and_then(Value::as_str);
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        let last = path.rsplit('/').next().unwrap_or_default();
        let id = ["libpod-payload-", "libpod-"].iter().find_map(|prefix| last.strip_prefix(prefix));
        let id = id.or_else(|| last.rsplit_once(":libpod:").map(|(_, id)| id));
        return id
            .filter(|id| is_id(id))
            .map(str::to_owned)
            .ok_or_else(|| "its `linux.cgroupsPath` has no id of podman's".into());
    }
    let mounts = whole.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let text = |mount: &Value, key: &str| mount.get(key).and_then(Value::as_str).map(str::to_owned);
    let own = mounts
        .filter(|mount| text(mount, "destination").as_deref() == Some(OWN_MOUNT))
        .filter_map(|mount| text(mount, "source"));
    // several, when the user mounts something there, too: then it is not known which is podman's
    let ids: Vec<String> =
        own.filter_map(|source| source.split('/').find(|part| is_id(part)).map(str::to_owned)).collect();
    match ids.as_slice() {
        [id] => Ok(id.clone()),
        _ => Err(format!("it has no `linux.cgroupsPath`, and no id in the source of `{OWN_MOUNT}`")),
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3051cfbb6f4b136dd927d1869fe98a135fab86c6b4801d5f0eae5403d751e74a";

    fn spec(rest: &str) -> Result<Spec, String> {
        Spec::parse(rest.replace("ID", ID).as_bytes())
    }

    #[test]
    fn the_id_stands_in_the_path_of_the_cgroup() {
        for path in [
            "/libpod_parent/libpod-ID",
            "/machine.slice/libpod_pod_x/libpod-ID",
            "machine.slice:libpod:ID",
            "machine-libpod_pod_x.slice:libpod:ID",
            "/system.slice/web.service/libpod-payload-ID",
        ] {
            let spec = spec(&format!(r#"{{"linux":{{"cgroupsPath":"{path}"}}}}"#)).unwrap();
            assert_eq!(spec.id.as_deref(), Ok(ID), "{path}");
        }
        for path in [
            "/x",
            "/libpod-ID/x",
            "/libpod-",
            "/libpod-IDa",
            "libpod:ID",
            "/libpod-3051",
            "/libpod-payload-x",
        ] {
            let spec = spec(&format!(r#"{{"linux":{{"cgroupsPath":"{path}"}}}}"#)).unwrap();
            assert!(spec.id.is_err(), "{path}");
        }
    }

    #[test]
    fn without_cgroups_it_is_that_of_the_own_mount() {
        let own = r#"{"destination":"/run/.containerenv","source":"/run/x/overlay-containers/ID/userdata/.containerenv"}"#;
        let found =
            spec(&format!(r#"{{"linux":{{"cgroupsPath":""}},"mounts":[{{"destination":"/proc"}},{own}]}}"#));
        assert_eq!(found.unwrap().id.as_deref(), Ok(ID));
        assert!(spec(&format!(r#"{{"mounts":[{own},{own}]}}"#)).unwrap().id.is_err(), "which of them?");
        assert!(spec("{}").unwrap().id.unwrap_err().contains("cgroupsPath"));
        for text in ["", "[]", r#"{"annotations":[]}"#] {
            assert!(spec(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_daemon_wants_is_changed_and_nothing_else() {
        let text = r#"{"annotations":{"a":"b","io.kubernetes.pod.namespace":"shop"},"linux":{"cgroupsPath":"/libpod-ID",
            "seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}},"process":{"rlimits":[{"hard":18446744073709551615}]},"x":[1.5]}"#;
        let before = spec(text).unwrap();
        assert!(!before.forged());
        assert_eq!(before.seccomp().unwrap().to_string(), r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
        let same = before.clone().adjusted(Adjustment::default()).unwrap();
        assert_eq!(Spec::parse(&same).unwrap(), before);
        let adjustment = Adjustment {
            seccomp: Some(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO"})),
            apparmor: Some("p".into()),
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            without: ["none".to_owned()].into(),
        };
        let after: Value = serde_json::from_slice(&before.adjusted(adjustment.clone()).unwrap()).unwrap();
        assert_eq!(
            after.to_string(),
            text.replace("ID", ID)
                .replace(
                    "{\"a\":\"b\",\"io.kubernetes.pod.namespace\":\"shop\"}",
                    "{\"a\":\"b\",\"io.kubernetes.pod.namespace\":\"shop\",\"k\":\"v\"}"
                )
                .replace("ACT_ALLOW", "ACT_ERRNO")
                .replace("{\"rlimits\"", "{\"apparmorProfile\":\"p\",\"rlimits\"")
                .replace("\n            ", "")
        );
        let bad = spec(r#"{"linux":{"cgroupsPath":"/libpod-ID"},"process":1}"#).unwrap();
        assert!(bad.adjusted(adjustment).unwrap_err().contains("`process`"));
    }

    #[test]
    fn what_an_image_forges_is_taken_out() {
        let text = r#"{"annotations":{"a":"b","nri-enforcer.io/refused":"x","nri-enforcer.io/seccomp":"d",
            "run.oci.hooks.stdout":"/etc/nologin","run.oci.hooks.stderr":"/dev/watchdog",
            "run.oci.seccomp_bpf_data":"BgAAAAAA/38="},"linux":{"cgroupsPath":"/libpod-ID"}}"#;
        let forged = spec(text).unwrap();
        assert!(forged.forged());
        let annotations = |spec: Spec, adjustment: Adjustment| {
            let after: Value = serde_json::from_slice(&spec.adjusted(adjustment).unwrap()).unwrap();
            after.pointer("/annotations").unwrap().to_string()
        };
        assert_eq!(
            annotations(forged.clone(), Adjustment::default()),
            r#"{"a":"b","run.oci.seccomp_bpf_data":"BgAAAAAA/38="}"#
        );
        // in place of the profile of the policies crun would install that filter
        let seccomp = Adjustment { seccomp: Some(serde_json::json!({})), ..Adjustment::default() };
        assert_eq!(annotations(forged, seccomp), r#"{"a":"b"}"#);
        // and would run the workload in a way that no policy reaches
        let handled =
            text.replace("seccomp_bpf_data", "handler").replace("\"a\":", "\"module.wasm.image/variant\":");
        let without =
            Adjustment { without: CRUN_HANDLERS.map(str::to_owned).into(), ..Adjustment::default() };
        assert_eq!(annotations(spec(&handled).unwrap(), without), "{}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, path in ".{0,90}", source in ".{0,90}") {
            let _any = Spec::parse(&bytes);
            let text = serde_json::json!({
                "linux": {"cgroupsPath": path}, "mounts": [{"destination": OWN_MOUNT, "source": source}],
            });
            let _any = Spec::parse(text.to_string().as_bytes());
        }
    }
}
