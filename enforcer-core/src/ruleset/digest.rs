//! The canonical encoding of a ruleset, and its hash.
//!
//! Every variable-length field is preceded by its length and every choice by a tag, so that no two rulesets share
//! an encoding.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{Conditions, Object, Origin, Rule, Whitelists};
use crate::links::Link;
use crate::network::Endpoint;
use crate::path::AbsPath;
use crate::posture::Class;
use crate::visibility::Visibility;

/// Changes with the encoding, so that digests of two encodings never meet.
const VERSION: &[u8] = b"nri-enforcer ruleset 2";

/// Of a class that is observed; nothing of one that is not, so that the digest is what it is without visibility.
const OBSERVED: u8 = 0x10;

/// SHA-256 over the canonical encoding of a [`Ruleset`](super::Ruleset). Prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulesetDigest([u8; 32]);

impl RulesetDigest {
    /// A digest read back from where it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RulesetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// As it prints.
impl Serialize for RulesetDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for RulesetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RulesetDigest({self})")
    }
}

/// The whole encoding, hashed at once: thousands of small pieces cost more than the hash.
struct Encoder(Vec<u8>);

impl Encoder {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn number(&mut self, number: usize) {
        // A usize has at most 64 bits on every target, and little-endian zero padding keeps its value.
        let mut bytes = [0u8; 8];
        bytes.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.0.extend_from_slice(&bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn option(&mut self, bytes: Option<&[u8]>) {
        self.tag(u8::from(bytes.is_some()));
        if let Some(bytes) = bytes {
            self.bytes(bytes);
        }
    }
}

pub(super) fn digest(
    rules: &[Rule],
    origins: &[Arc<Origin>],
    whitelists: Whitelists,
    observed: Visibility,
    links: &[Link],
) -> RulesetDigest {
    let mut encoder = Encoder(Vec::with_capacity(256 * (origins.len() + rules.len())));
    encoder.bytes(VERSION);
    encoder.number(origins.len());
    origins.iter().for_each(|origin| encode_origin(&mut encoder, origin));
    encoder.number(rules.len());
    rules.iter().for_each(|rule| encode_rule(&mut encoder, rule));
    for (class, posture) in Class::ALL.into_iter().zip(whitelists) {
        let observed = if observed.contains(class) { OBSERVED } else { 0 };
        encoder.tag(observed | posture.map_or(0, |posture| 1 + posture as u8));
    }
    // at the end, and nothing where there are none: most rulesets are what they are without a container
    if !links.is_empty() {
        encoder.number(links.len());
        for Link { path, target } in links {
            encoder.bytes(path.as_bytes());
            encoder.bytes(target.as_bytes());
        }
    }
    RulesetDigest(Sha256::digest(&encoder.0).into())
}

fn encode_origin(encoder: &mut Encoder, origin: &Origin) {
    let Origin { policy, rule, severity, tags, message, action } = origin;
    encoder.tag(policy.kind as u8);
    encoder.bytes(policy.namespace.as_bytes());
    encoder.bytes(policy.name.as_bytes());
    encoder.bytes(rule.as_bytes());
    encoder.tag(*severity);
    encoder.number(tags.len());
    tags.iter().for_each(|tag| encoder.bytes(tag.as_bytes()));
    encoder.bytes(message.as_bytes());
    encoder.tag(*action as u8);
}

fn encode_rule(encoder: &mut Encoder, rule: &Rule) {
    let Rule { class, source, object, conditions, effect, origin } = rule;
    encoder.tag(*class as u8);
    encoder.option(source.as_ref().map(AbsPath::as_bytes));
    encode_object(encoder, object);
    let Conditions { read_only, owner_only, no_terminal, args } = conditions;
    for condition in [read_only, owner_only, no_terminal] {
        encoder.tag(u8::from(*condition));
    }
    encoder.tag(u8::from(args.is_some()));
    if let Some(args) = args {
        encoder.number(args.as_slice().len());
        args.as_slice().iter().for_each(|arg| encoder.bytes(arg.as_bytes()));
    }
    encoder.tag(*effect as u8);
    encoder.bytes(&origin.0.to_le_bytes());
}

fn encode_object(encoder: &mut Encoder, object: &Object) {
    match object {
        Object::Path(path) => {
            encoder.tag(0);
            encoder.bytes(path.as_bytes());
        }
        Object::BaseName(name) => {
            encoder.tag(1);
            encoder.bytes(name.as_bytes());
        }
        Object::Directory { dir, recursive } => {
            encoder.tag(2);
            encoder.bytes(dir.as_bytes());
            encoder.tag(u8::from(*recursive));
        }
        Object::Pattern(pattern) => {
            encoder.tag(3);
            encoder.bytes(pattern.as_str().as_bytes());
        }
        Object::Sockets(protocol) => {
            encoder.tag(4);
            encoder.bytes(protocol.as_str().as_bytes());
        }
        Object::Destination(endpoint) => {
            encoder.tag(5);
            encode_endpoint(encoder, endpoint);
        }
        Object::Listener(endpoint) => {
            encoder.tag(6);
            encode_endpoint(encoder, endpoint);
        }
        Object::Capability(capability) => {
            encoder.tag(7);
            encoder.tag(capability.number());
        }
        Object::Syscall(syscall) => {
            encoder.tag(8);
            encoder.bytes(syscall.name().as_bytes());
        }
        Object::Preset(preset) => {
            encoder.tag(9);
            encoder.bytes(preset.as_str().as_bytes());
        }
        Object::Applet { program, name } => {
            encoder.tag(10);
            encoder.bytes(program.as_bytes());
            encoder.bytes(name);
        }
    }
}

fn encode_endpoint(encoder: &mut Encoder, endpoint: &Endpoint) {
    let Endpoint { net, ports, protocol } = endpoint;
    encoder.option(net.map(|net| net.to_string()).as_ref().map(String::as_bytes));
    encoder.bytes(&ports.first().to_le_bytes());
    encoder.bytes(&ports.last().to_le_bytes());
    encoder.option(protocol.map(|protocol| protocol.as_str().as_bytes()));
}
