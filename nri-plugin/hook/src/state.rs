//! What the runtime tells on standard input: the OCI state of the container.
//!
//! `annotations` decide whether a container is exempt, so it matters who can write them. CRI-O copies the annotations
//! of the pod into it, below its own; containerd does where it is configured to. A key that one runtime sets is
//! therefore anybody's under another one: a namespace counts only where all keys that are there tell the same. podman
//! copies those of the image over its own, so under podman none counts but what this hook has written at `precreate`.
//! Which runtime it is, is told by an argument, which nobody but the node's administrator writes.

use std::collections::BTreeMap;

use crate::json::Object;
use crate::spec::MAX_SPEC_BYTES;

/// Bytes of a state at most. It holds the annotations of a configuration, which has up to [`MAX_SPEC_BYTES`], and which a runtime
/// may write longer than podman (`\u00e9` for two bytes). With less, an image could have annotations by which the daemon is not
/// asked. Kubernetes allows a pod 256 KiB of them.
pub const MAX_STATE_BYTES: usize = 4 * MAX_SPEC_BYTES;

/// Where runtimes tell the pod's namespace: containerd's CRI plugin; CRI-O, which copies kubelet's labels.
const NAMESPACE: [&str; 2] = ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];
const POD: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const CONTAINER: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];
/// Where they tell a pod's own (pause) container from the others.
const KIND: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

/// The namespace of podman's containers: that of policies which name none. podman has no namespaces.
pub const PODMAN_NAMESPACE: &str = "default";
/// How the keys of annotations begin that only this hook and the daemon write.
pub const OWN_ANNOTATIONS: &str = "nri-enforcer.io/";
/// The annotation with the digest of the seccomp profile that the daemon gave a container.
pub const SECCOMP_ANNOTATION: &str = "nri-enforcer.io/seccomp";

/// The annotation with the reason why a container of podman's did not get what its policies say, at `precreate`.
pub const REFUSED_ANNOTATION: &str = "nri-enforcer.io/refused";

/// Who runs the hook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Runtime {
    /// One that kubelet uses, or `ctr`.
    #[default]
    Cri,
    /// podman (`--podman`).
    Podman,
}

/// How far the runtime has come; the name of the OCI hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// podman has made the container's configuration, and has not given it to the runtime yet.
    Precreate,
    /// Namespaces are final, the root directory is not changed yet, nothing of the container has run.
    CreateRuntime,
    /// The container is gone.
    Poststop,
}

impl Stage {
    /// By the name that OCI gives it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "precreate" => Some(Self::Precreate),
            "createRuntime" => Some(Self::CreateRuntime),
            "poststop" => Some(Self::Poststop),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Precreate => "precreate",
            Self::CreateRuntime => "createRuntime",
            Self::Poststop => "poststop",
        }
    }

    /// Whether a container with this `status` is there. crun says `created` at `createRuntime` where OCI has `creating`.
    fn suits(self, status: &str) -> bool {
        match self {
            Self::Precreate => false, // it is told no state
            Self::CreateRuntime => matches!(status, "creating" | "created"),
            Self::Poststop => status == "stopped",
        }
    }
}

/// The OCI state of a container, as far as the hook looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The runtime's id; not empty.
    pub id: String,
    /// The container's first process, in the runtime's pid namespace; 0: none (any more).
    pub pid: i32,
    /// The directory with the container's `config.json`; empty: not told.
    pub bundle: String,
    /// Who runs the hook.
    pub runtime: Runtime,
    annotations: BTreeMap<String, String>,
}

impl State {
    /// Reads a state, and checks that it is one of `stage`.
    ///
    /// # Errors
    /// When it is none; the text says why.
    pub fn parse(bytes: &[u8], stage: Stage, runtime: Runtime) -> Result<Self, String> {
        let mut object = Object::parse(bytes)?;
        let id = object.text("id")?.filter(|id| !id.is_empty()).ok_or("it has no `id`")?;
        let status = object.text("status")?.unwrap_or_default();
        if !stage.suits(&status) {
            return Err(format!(
                "its status is `{status}`, which is not that of a container at {}",
                stage.name()
            ));
        }
        let pid = object.number("pid")?.unwrap_or(0);
        let pid = i32::try_from(pid).map_err(|_| format!("{pid} is no process id"))?;
        if stage == Stage::CreateRuntime && pid == 0 {
            return Err("it has no `pid`".into());
        }
        let bundle = object.text("bundle")?.unwrap_or_default();
        Ok(Self { id, pid, bundle, runtime, annotations: object.named_texts("annotations")? })
    }

    /// The namespace of the pod; `None` for a container of none (`ctr`'s).
    ///
    /// # Errors
    /// When the annotations contradict each other.
    pub fn namespace(&self) -> Result<Option<&str>, String> {
        match self.runtime {
            Runtime::Podman => Ok(Some(PODMAN_NAMESPACE)),
            Runtime::Cri => self.agreed(&NAMESPACE),
        }
    }

    /// Why it did not get what its policies say, by what was written at `precreate`.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.own(REFUSED_ANNOTATION)
    }

    /// The digest of the seccomp profile that the daemon gave it at `precreate`; empty: none.
    #[must_use]
    pub fn seccomp(&self) -> &str {
        self.own(SECCOMP_ANNOTATION).unwrap_or_default()
    }

    /// What was written at `precreate`, which only podman has: there what else has such a key is taken out.
    fn own(&self, key: &str) -> Option<&str> {
        let podmans = self.runtime == Runtime::Podman;
        self.annotations.get(key).filter(|_| podmans).map(String::as_str)
    }

    /// The pod, for people; empty where it is not told.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.agreed(&POD).ok().flatten().unwrap_or_default()
    }

    /// The container's name in the pod, for people; empty where it is not told.
    #[must_use]
    pub fn container(&self) -> &str {
        self.agreed(&CONTAINER).ok().flatten().unwrap_or_default()
    }

    /// Whether it is the container that only holds a pod's namespaces. No policy selects those. podman's are known to
    /// the daemon alone.
    #[must_use]
    pub fn holds_the_pod(&self) -> bool {
        matches!(self.agreed(&KIND), Ok(Some("sandbox")))
    }

    /// What those of the keys say that are there; nothing where an image may have written them.
    fn agreed(&self, keys: &[&str]) -> Result<Option<&str>, String> {
        match self.runtime {
            Runtime::Podman => Ok(None),
            Runtime::Cri => agreed(&self.annotations, keys),
        }
    }
}

fn agreed<'a>(annotations: &'a BTreeMap<String, String>, keys: &[&str]) -> Result<Option<&'a str>, String> {
    let mut said = keys.iter().filter_map(|key| annotations.get(*key));
    let Some(first) = said.next() else { return Ok(None) };
    match said.find(|other| *other != first) {
        None => Ok(Some(first)),
        Some(other) => Err(format!("its annotations contradict each other (`{first}`, `{other}`)")),
    }
}

/// The path of the container's root in a bundle's `config.json`, as it is written there.
///
/// # Errors
/// When the configuration has none.
pub fn root_of(config: &[u8]) -> Result<String, String> {
    let root = Object::parse(config)?.object("root").map(|mut root| root.text("path")).transpose()?.flatten();
    root.filter(|path| !path.is_empty()).ok_or_else(|| "it has no `root.path`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(annotations: &str) -> State {
        of(Runtime::Cri, annotations)
    }

    fn of(runtime: Runtime, annotations: &str) -> State {
        let text =
            format!(r#"{{"id":"c1","pid":7,"status":"creating","bundle":"/b","annotations":{annotations}}}"#);
        State::parse(text.as_bytes(), Stage::CreateRuntime, runtime).unwrap()
    }

    #[test]
    fn each_runtime_tells_the_namespace_in_its_own_way() {
        let containerd = state(
            r#"{"io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-name":"web-1",
                "io.kubernetes.cri.container-name":"main","io.kubernetes.cri.container-type":"container"}"#,
        );
        let cri_o = state(
            r#"{"io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.name":"web-1",
                "io.kubernetes.container.name":"main","io.kubernetes.cri-o.ContainerType":"container"}"#,
        );
        for state in [containerd, cri_o] {
            assert_eq!(state.namespace(), Ok(Some("shop")));
            assert_eq!((state.pod(), state.container(), state.holds_the_pod()), ("web-1", "main", false));
        }
        assert_eq!(state("{}").namespace(), Ok(None), "ctr");
        assert!(state(r#"{"io.kubernetes.cri-o.ContainerType":"sandbox"}"#).holds_the_pod());
    }

    #[test]
    fn a_pod_cannot_choose_another_namespace_by_its_annotations() {
        // CRI-O sets its own key; the pod has written containerd's
        let forged = state(
            r#"{"io.kubernetes.pod.namespace":"shop","io.kubernetes.cri.sandbox-namespace":"kube-system",
                "io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri.container-type":"sandbox"}"#,
        );
        assert!(forged.namespace().unwrap_err().contains("contradict"));
        assert!(!forged.holds_the_pod());
    }

    #[test]
    fn an_image_of_podmans_chooses_nothing_by_its_annotations() {
        let forged = r#"{"io.kubernetes.cri.sandbox-namespace":"kube-system","io.kubernetes.cri.sandbox-name":"x",
            "io.kubernetes.cri.container-name":"y","io.kubernetes.cri-o.ContainerType":"sandbox"}"#;
        let podman = of(Runtime::Podman, forged);
        assert_eq!(podman.namespace(), Ok(Some(PODMAN_NAMESPACE)));
        assert_eq!((podman.pod(), podman.container(), podman.holds_the_pod()), ("", "", false));
        let contradicting =
            r#"{"io.kubernetes.cri.sandbox-namespace":"a","io.kubernetes.pod.namespace":"kube-system"}"#;
        assert_eq!(of(Runtime::Podman, contradicting).namespace(), Ok(Some(PODMAN_NAMESPACE)));
    }

    #[test]
    fn an_annotation_that_says_podman_gives_nothing() {
        let own = r#"{"io.container.manager":"libpod","nri-enforcer.io/refused":"no","nri-enforcer.io/seccomp":"d"}"#;
        let podman = of(Runtime::Podman, own);
        assert_eq!((podman.refused(), podman.seccomp()), (Some("no"), "d"));
        let another = state(own);
        assert_eq!((another.namespace(), another.refused(), another.seccomp()), (Ok(None), None, ""));
    }

    #[test]
    fn what_is_no_state_of_this_stage_is_told() {
        let parse =
            |text: &str| State::parse(text.as_bytes(), Stage::CreateRuntime, Runtime::Cri).unwrap_err();
        for (text, wanted) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            (r#"{"id":""}"#, "`id`"),
            (r#"{"id":"c","status":"running","pid":7}"#, "`running`"),
            (r#"{"id":"c","status":"creating"}"#, "`pid`"),
            (r#"{"id":"c","status":"creating","pid":-1}"#, "`pid`"),
            (r#"{"id":"c","status":"creating","pid":4294967296}"#, "4294967296"),
            (r#"{"id":"c","status":"creating","pid":7,"annotations":[]}"#, "`annotations`"),
            (r#"{"id":"c","status":"creating","pid":7,"annotations":{"a":1}}"#, "`annotations`"),
        ] {
            assert!(parse(text).contains(wanted), "{text}: {}", parse(text));
        }
        assert!(
            State::parse(br#"{"id":"c","status":"created","pid":7}"#, Stage::CreateRuntime, Runtime::Cri)
                .is_ok(),
            "crun"
        );
        assert!(State::parse(br#"{"id":"c","status":"stopped"}"#, Stage::Poststop, Runtime::Cri).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _any = (State::parse(&bytes, Stage::CreateRuntime, Runtime::Cri), root_of(&bytes));
            let _any = crate::config::Config::parse(&bytes);
        }

        #[test]
        fn no_values_make_it_panic(id in "\\PC{0,9}", pid: i64, key in "io.kubernetes[a-z.-]{0,30}", value in ".{0,9}") {
            let state = serde_json::json!({"id": id, "pid": pid, "status": "creating", "annotations": {key: value}});
            if let Ok(state) = State::parse(state.to_string().as_bytes(), Stage::CreateRuntime, Runtime::Cri) {
                let _any = (state.namespace(), state.pod(), state.container(), state.holds_the_pod());
            }
        }
    }

    #[test]
    fn the_root_is_where_the_configuration_says() {
        assert_eq!(root_of(br#"{"root":{"path":"rootfs"}}"#), Ok("rootfs".into()));
        for text in ["{}", r#"{"root":{}}"#, r#"{"root":{"path":""}}"#, r#"{"root":{"path":1}}"#, "{"] {
            assert!(root_of(text.as_bytes()).is_err(), "{text}");
        }
    }
}
