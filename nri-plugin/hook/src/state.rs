//! What the runtime tells on standard input: the OCI state of the container.
//!
//! `annotations` decide whether a container is exempt, so it matters who can write them. CRI-O copies the annotations
//! of the pod into it, below its own; containerd does where it is configured to. A key that one runtime sets is
//! therefore anybody's under another one: a namespace counts only where all keys that are there tell the same.

use std::collections::BTreeMap;

use crate::json::Object;

/// Bytes of a state at most. Kubernetes allows a pod 256 KiB of annotations.
pub const MAX_STATE_BYTES: usize = 1 << 20;

/// Where runtimes tell the pod's namespace: containerd's CRI plugin; CRI-O, which copies kubelet's labels.
const NAMESPACE: [&str; 2] = ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];
const POD: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const CONTAINER: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];
/// Where they tell a pod's own (pause) container from the others.
const KIND: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

/// By which podman (libpod) tells that a container is its own.
const MANAGER: (&str, &str) = ("io.container.manager", "libpod");
/// The namespace of podman's containers, unless their annotations name another one: that of policies which name none.
pub const PODMAN_NAMESPACE: &str = "default";
/// The annotation with the digest of the seccomp profile that the daemon gave a container.
pub const SECCOMP_ANNOTATION: &str = "nri-enforcer.io/seccomp";

/// The annotation with the reason why a container of podman's did not get what its policies say, at `precreate`.
pub const REFUSED_ANNOTATION: &str = "nri-enforcer.io/refused";

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
    annotations: BTreeMap<String, String>,
}

impl State {
    /// Reads a state, and checks that it is one of `stage`.
    ///
    /// # Errors
    /// When it is none; the text says why.
    pub fn parse(bytes: &[u8], stage: Stage) -> Result<Self, String> {
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
        Ok(Self { id, pid, bundle, annotations: object.named_texts("annotations")? })
    }

    /// The namespace of the pod; `None` for a container of none (`ctr`'s).
    ///
    /// # Errors
    /// When the annotations contradict each other.
    pub fn namespace(&self) -> Result<Option<&str>, String> {
        let told = agreed_namespace(&self.annotations)?;
        Ok(told.or_else(|| self.is_podmans().then_some(PODMAN_NAMESPACE)))
    }

    /// Whether podman made the container. Other runtimes copy annotations of pods, but name the pod beside them.
    #[must_use]
    pub fn is_podmans(&self) -> bool {
        let by_podman = self.annotations.get(MANAGER.0).is_some_and(|manager| manager == MANAGER.1);
        by_podman && !POD.iter().chain(KIND.first()).any(|key| self.annotations.contains_key(*key))
    }

    /// Why it did not get what its policies say.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        let told = self.is_podmans().then(|| self.annotations.get(REFUSED_ANNOTATION)).flatten();
        told.map(String::as_str)
    }

    /// The digest of the seccomp profile that the daemon gave it; empty: none.
    #[must_use]
    pub fn seccomp(&self) -> &str {
        self.annotations.get(SECCOMP_ANNOTATION).map_or("", String::as_str)
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

    /// Whether it is the container that only holds a pod's namespaces. No policy selects those.
    #[must_use]
    pub fn holds_the_pod(&self) -> bool {
        holds_the_pod(&self.annotations)
    }

    /// What those of the keys say that are there.
    fn agreed(&self, keys: &[&str]) -> Result<Option<&str>, String> {
        agreed(&self.annotations, keys)
    }
}

/// See [`State::holds_the_pod`].
pub(crate) fn holds_the_pod(annotations: &BTreeMap<String, String>) -> bool {
    matches!(agreed(annotations, &KIND), Ok(Some("sandbox")))
}

/// The namespace, by annotations of whatever runtime.
pub(crate) fn agreed_namespace(annotations: &BTreeMap<String, String>) -> Result<Option<&str>, String> {
    agreed(annotations, &NAMESPACE)
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
        let text =
            format!(r#"{{"id":"c1","pid":7,"status":"creating","bundle":"/b","annotations":{annotations}}}"#);
        State::parse(text.as_bytes(), Stage::CreateRuntime).unwrap()
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
        let podman = state(r#"{"io.container.manager":"libpod","io.podman.annotations.autoremove":"FALSE"}"#);
        assert_eq!((podman.namespace(), podman.is_podmans()), (Ok(Some("default")), true));
        let podman = state(r#"{"io.container.manager":"libpod","io.kubernetes.pod.namespace":"shop"}"#);
        assert_eq!((podman.namespace(), podman.is_podmans()), (Ok(Some("shop")), true));
        let in_a_pod =
            state(r#"{"io.container.manager":"libpod","io.kubernetes.cri-o.ContainerType":"container"}"#);
        assert!(in_a_pod.is_podmans() && !in_a_pod.holds_the_pod());
        let ctr = state("{}");
        assert_eq!((ctr.namespace(), ctr.is_podmans()), (Ok(None), false));
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
        let forged = state(
            r#"{"io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.name":"web-1","io.container.manager":"libpod"}"#,
        );
        assert!(!forged.is_podmans());
    }

    #[test]
    fn what_is_no_state_of_this_stage_is_told() {
        let parse = |text: &str| State::parse(text.as_bytes(), Stage::CreateRuntime).unwrap_err();
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
            State::parse(br#"{"id":"c","status":"created","pid":7}"#, Stage::CreateRuntime).is_ok(),
            "crun"
        );
        assert!(State::parse(br#"{"id":"c","status":"stopped"}"#, Stage::Poststop).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _any = (State::parse(&bytes, Stage::CreateRuntime), root_of(&bytes));
            let _any = crate::config::Config::parse(&bytes);
        }

        #[test]
        fn no_values_make_it_panic(id in "\\PC{0,9}", pid: i64, key in "io.kubernetes[a-z.-]{0,30}", value in ".{0,9}") {
            let state = serde_json::json!({"id": id, "pid": pid, "status": "creating", "annotations": {key: value}});
            if let Ok(state) = State::parse(state.to_string().as_bytes(), Stage::CreateRuntime) {
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
