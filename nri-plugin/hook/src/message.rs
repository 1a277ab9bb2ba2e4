//! What hook and daemon say to each other over the socket: one question, one answer, then the end.
//!
//! A message is a length (four bytes, big endian, of what follows) and so many bytes of JSON, an object. Both sides
//! ignore keys that they do not know. `README.md` beside this crate has the keys.

use serde_json::{Map, Value, json};

use crate::json::Object;
use crate::spec::Adjustment;
use crate::state::Stage;

/// The version of the protocol that this release speaks.
pub const VERSION: u64 = 1;
/// Bytes of the JSON of a message at most.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of a text of a request at most: ids, names and paths of roots are shorter. JSON may write each as six.
const MAX_TEXT_BYTES: usize = 2 << 10;
/// Bytes of a reason at most.
const MAX_REASON_BYTES: usize = 8 << 10;

/// What the hook asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `precreate`: what is to be changed in its configuration? `createRuntime`: arm now. `poststop`: forget; nobody waits for the answer.
    pub stage: Stage,
    /// The runtime's id of the container.
    pub id: String,
    /// Its first process, in the hook's pid namespace; 0 at `precreate` and `poststop`.
    pub pid: i32,
    /// Milliseconds after which the hook gives up.
    pub patience_millis: u64,
    /// The directory that is to be the container's root, as an absolute path without links; `None`: not known.
    pub root: Option<String>,
    /// That directory's inode number.
    pub root_inode: Option<u64>,
    /// Namespace, pod and name in it, by the annotations; empty: not told.
    pub namespace: String,
    /// See `namespace`.
    pub pod: String,
    /// See `namespace`.
    pub container: String,
    /// Whether podman made it: then its name and labels are in podman's files, by its id.
    pub podman: bool,
    /// At `precreate` its seccomp profile, as podman has it; `None`: it has none.
    pub seccomp: Option<Value>,
    /// At `createRuntime` the digest of the profile that it was given at `precreate`; empty: none.
    pub seccomp_digest: String,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The policies are in force, and were read back.
    Armed,
    /// No policy selects the container.
    Nothing,
    /// To `precreate`: this is to be changed.
    Adjust(Adjustment),
    /// It must not start.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

impl Request {
    /// The whole message. A text that is too long is left out, and with it what it is good for.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let short = |text: &str| (text.len() <= MAX_TEXT_BYTES).then(|| text.to_owned());
        let body = json!({
            "version": VERSION,
            "stage": self.stage.name(),
            "id": short(&self.id).unwrap_or_default(),
            "pid": self.pid,
            "patienceMillis": self.patience_millis,
            "root": self.root.as_deref().and_then(short),
            "rootInode": self.root_inode,
            "namespace": short(&self.namespace).unwrap_or_default(),
            "pod": short(&self.pod).unwrap_or_default(),
            "container": short(&self.container).unwrap_or_default(),
            "podman": self.podman,
            "seccomp": self.seccomp,
            "seccompDigest": short(&self.seccomp_digest).unwrap_or_default(),
        });
        frame(body.to_string().into_bytes())
    }

    /// Reads the JSON of a message.
    ///
    /// # Errors
    /// When it is no request of this version; the text says why.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let mut object = versioned(body)?;
        let stage = object.text("stage")?.unwrap_or_default();
        let stage = Stage::named(&stage).ok_or_else(|| format!("there is no stage `{stage}`"))?;
        let pid = object.number("pid")?.unwrap_or(0);
        let mut text = |key: &str| object.text(key).map(Option::unwrap_or_default);
        let (id, namespace, pod, container, seccomp_digest) =
            (text("id")?, text("namespace")?, text("pod")?, text("container")?, text("seccompDigest")?);
        if id.is_empty() {
            return Err("it has no `id`".into());
        }
        Ok(Self {
            stage,
            id,
            pid: i32::try_from(pid).map_err(|_| format!("{pid} is no process id"))?,
            patience_millis: object.number("patienceMillis")?.unwrap_or(0),
            root: object.text("root")?.filter(|root| root.starts_with('/')),
            root_inode: object.number("rootInode")?,
            namespace,
            pod,
            container,
            podman: object.any("podman") == Some(Value::Bool(true)),
            seccomp: object.any("seccomp"),
            seccomp_digest,
        })
    }
}

impl Answer {
    /// The whole message. What is too large to be sent is a refusal.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Map::new();
        let mut put = |key: &str, value: Value| body.insert(key.into(), value);
        put("version", VERSION.into());
        match self {
            Self::Armed => put("answer", "armed".into()),
            Self::Nothing => put("answer", "nothing".into()),
            Self::Adjust(Adjustment { seccomp, apparmor, annotations, without }) => {
                put("seccomp", seccomp.clone().unwrap_or_default());
                put("apparmor", apparmor.clone().into());
                put("annotations", json!(annotations));
                put("without", json!(without));
                put("answer", "adjust".into())
            }
            Self::Refused { reason } => {
                put("reason", readable(reason, MAX_REASON_BYTES).into());
                put("answer", "refused".into())
            }
        };
        let body = Value::Object(body).to_string().into_bytes();
        if body.len() > MAX_MESSAGE_BYTES && matches!(self, Self::Adjust(_)) {
            let reason = format!(
                "what the container is to be given has {} bytes, and a message {MAX_MESSAGE_BYTES}: make its seccomp policies, \
                 or its own profile, smaller",
                body.len()
            );
            return Self::Refused { reason }.encode();
        }
        frame(body)
    }

    /// Reads the JSON of a message.
    ///
    /// # Errors
    /// When it is no answer of this version; the text says why.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let mut object = versioned(body)?;
        match object.text("answer")?.as_deref() {
            Some("armed") => Ok(Self::Armed),
            Some("nothing") => Ok(Self::Nothing),
            Some("adjust") => Ok(Self::Adjust(Adjustment {
                seccomp: object.any("seccomp"),
                apparmor: object.text("apparmor")?.filter(|profile| !profile.is_empty()),
                annotations: object.named_texts("annotations")?,
                without: object.texts("without")?.unwrap_or_default().into_iter().collect(),
            })),
            Some("refused") => {
                let reason = object.text("reason")?.unwrap_or_else(|| "it does not say why".into());
                Ok(Self::Refused { reason: readable(&reason, MAX_REASON_BYTES) })
            }
            other => Err(format!("there is no answer `{}`", readable(other.unwrap_or_default(), 64))),
        }
    }
}

/// How many bytes of JSON follow.
///
/// # Errors
/// When there are none, or too many.
pub fn body_len(head: [u8; 4]) -> Result<usize, String> {
    let len = u32::from_be_bytes(head);
    match usize::try_from(len) {
        Ok(len) if (1..=MAX_MESSAGE_BYTES).contains(&len) => Ok(len),
        _ => Err(format!("a message of {len} bytes; there may be 1 to {MAX_MESSAGE_BYTES}")),
    }
}

fn frame(body: Vec<u8>) -> Vec<u8> {
    // no longer than MAX_MESSAGE_BYTES, by the bounds of texts
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [len.to_be_bytes().to_vec(), body].concat()
}

fn versioned(body: &[u8]) -> Result<Object, String> {
    let mut object = Object::parse(body)?;
    match object.number("version")? {
        Some(VERSION) => Ok(object),
        Some(other) => Err(format!(
            "it is of version {other} of the protocol, not {VERSION}; install hook and daemon of one release"
        )),
        None => Err("it has no `version`".into()),
    }
}

/// A text for a terminal: without control characters, cut to so many bytes.
pub(crate) fn readable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for character in text.chars().map(|character| if character.is_control() { ' ' } else { character }) {
        if out.len() + character.len_utf8() > max {
            break;
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(message: &[u8]) -> &[u8] {
        let (head, body) = message.split_first_chunk().unwrap();
        assert_eq!(body_len(*head), Ok(body.len()));
        body
    }

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![Just(Stage::Precreate), Just(Stage::CreateRuntime), Just(Stage::Poststop)]
    }

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(
            stage in stage(), id in ".{1,200}", pid in 0..i32::MAX, patience_millis: u64, inode: Option<u64>,
            root in proptest::option::of("/.{0,200}"), names in proptest::array::uniform3(".{0,60}"),
        ) {
            let [namespace, pod, container] = names;
            let seccomp_digest = container.clone();
            let request = Request {
                stage, id, pid, patience_millis, root, root_inode: inode, namespace, pod, container, podman: inode.is_some(),
                seccomp: inode.map(|inode| json!({ "a": inode })), seccomp_digest,
            };
            prop_assert_eq!(Request::decode(body(&request.encode())), Ok(request));
        }

        #[test]
        fn no_bytes_make_either_side_panic(bytes: Vec<u8>, head: [u8; 4]) {
            let _any = (Request::decode(&bytes), Answer::decode(&bytes), body_len(head));
        }

        #[test]
        fn damaged_messages_are_refused_or_read(at in 0..200_usize, with: u8, reason in ".{0,80}") {
            let mut message = Answer::Refused { reason }.encode();
            if let Some(byte) = message.get_mut(at) {
                *byte = with;
            }
            let (_, body) = message.split_first_chunk::<4>().unwrap();
            // one changed byte makes no permission of a refusal
            prop_assert!(!matches!(Answer::decode(body), Ok(Answer::Armed | Answer::Nothing)));
        }
    }

    #[test]
    fn the_longest_texts_fit_and_longer_ones_are_left_out() {
        let (long, most) = ("\u{1}".repeat(MAX_REASON_BYTES + 1), "\u{1}".repeat(MAX_TEXT_BYTES));
        let request = Request {
            stage: Stage::CreateRuntime,
            id: most.clone(),
            pid: 1,
            patience_millis: 1,
            root: Some(format!("/{long}")),
            root_inode: None,
            namespace: long.clone(),
            pod: most.clone(),
            container: most.clone(),
            podman: true,
            seccomp: None,
            seccomp_digest: long.clone(),
        };
        let decoded = Request::decode(body(&request.encode())).unwrap();
        assert_eq!((decoded.root, decoded.namespace.as_str(), decoded.pod), (None, "", most));
        let adjustment = Adjustment {
            seccomp: Some(json!({"defaultAction": "SCMP_ACT_ALLOW"})),
            apparmor: Some("p".into()),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
            without: ["c".to_owned()].into(),
        };
        for adjustment in [adjustment, Adjustment::default()] {
            let answer = Answer::Adjust(adjustment);
            assert_eq!(Answer::decode(body(&answer.encode())), Ok(answer));
        }
        let large = json!({"syscalls": ["x".repeat(MAX_MESSAGE_BYTES)]});
        let answer = Answer::Adjust(Adjustment { seccomp: Some(large), ..Adjustment::default() }).encode();
        let Ok(Answer::Refused { reason }) = Answer::decode(body(&answer)) else { panic!("no refusal") };
        assert!(reason.contains("smaller"), "{reason}");
        let answer = Answer::Refused { reason: long }.encode();
        assert_eq!(
            Answer::decode(body(&answer)),
            Ok(Answer::Refused { reason: " ".repeat(MAX_REASON_BYTES) })
        );
    }

    #[test]
    fn another_version_is_told_and_more_keys_are_ignored() {
        let error = Answer::decode(br#"{"version":2,"answer":"armed"}"#).unwrap_err();
        assert!(error.contains("version 2") && error.contains("one release"), "{error}");
        assert!(Answer::decode(br#"{"answer":"armed"}"#).is_err());
        assert_eq!(Answer::decode(br#"{"version":1,"answer":"armed","more":[]}"#), Ok(Answer::Armed));
        assert!(
            body_len([0; 4]).is_err() && body_len([0, 16, 0, 1]).is_err() && body_len([0xff; 4]).is_err()
        );
    }
}
